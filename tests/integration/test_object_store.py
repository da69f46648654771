"""The object tier against a real S3 server: shared, created once, verified; and with a server that stops or dies."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import obstore
import pytest
from s3_signing import signed
from swift_server import Swift, is_installed, swift
from throttled import throttle
from tier_kit import LAYOUT, Rig, chain, content, rig

from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.tiers.objects import Objects, open_store
from dynamoc.runtime.manifest import CacheSettings, ObjectTier

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not is_installed(), reason="no Swift: run `make .swift`"),
]
KEYS = chain("prompt", 12)
PATIENCE = "dynamoc.runtime.kv.tiers.onboard.SHORTEST_DEADLINE_S"
SHARE = "dynamoc.runtime.kv.tiers.onboard.SLOWEST_SHARE"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that shares a busy machine with us is slow: what is asked here is whether pages are right."""
    monkeypatch.setattr(PATIENCE, 30.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with swift(tmp_path_factory.mktemp("swift")) as running:
        yield running


@pytest.fixture
def url(server: Swift, patience: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of the test's own."""
    del patience
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"kv-{random.randrange(1 << 40)}"
    _make_bucket(server, bucket)
    return f"s3://{bucket}/pages"


def _make_bucket(server: Swift, bucket: str) -> None:
    answer = httpx.put(**signed("PUT", f"{server.environment['AWS_ENDPOINT_URL']}/{bucket}", server.environment))
    assert answer.status_code == 200, answer.text


def cache(url: str, host_pages: int = 0) -> CacheSettings:
    size = host_pages * 8192 or None
    return CacheSettings(host_bytes=size, object=ObjectTier(url), admission="all")


def store_of(one: Rig) -> Objects:
    store = one.stack.stores[-1]
    assert isinstance(store, Objects)
    return store


def test_pages_stored_by_one_worker_are_loaded_by_another(url: str) -> None:
    with rig(cache(url)) as writer:
        assert len(writer.store(KEYS)) == 12
    with rig(cache(url)) as reader:
        store_of(reader).refresh()

        assert reader.load(KEYS) == 12


def test_workers_that_store_the_same_pages_at_once_create_each_once(url: str) -> None:
    with rig(cache(url)) as one, rig(cache(url)) as other, ThreadPoolExecutor(2) as pool:
        done = [pool.submit(each.store, KEYS) for each in (one, other)]
        assert [len(future.result(120)) for future in done] == [12, 12]
        listed = [found for batch in obstore.list(open_store(url, 10)) for found in batch]

        assert len(listed) == 12
        assert one.load(KEYS) == other.load(KEYS) == 12


@pytest.mark.parametrize("damage", ["flip", "short", "long"])
def test_a_damaged_object_is_a_miss(damage: str, url: str) -> None:
    with rig(cache(url)) as one:
        one.store(KEYS)
        store = store_of(one)
        path = store._path(KEYS[7].name, (0, 2))
        data = bytearray(bytes(obstore.get(store._store, path).bytes()))
        data[4700] ^= 16
        changed = {"flip": data, "short": data[:-1], "long": data + b"x"}[damage]
        obstore.put(store._store, path, bytes(changed))

        assert one.load(KEYS) == 7
        one.store(KEYS)
        assert one.load(KEYS) == 12


@pytest.mark.parametrize(("writers", "readers"), [(1, 2), (2, 1)])
def test_ranks_read_what_ranks_of_another_count_stored(writers: int, readers: int, url: str) -> None:
    whole = content(KEYS[0], LAYOUT.block_bytes)

    def of(ranks: int, rank: int) -> tuple[KvLayout, Heads, bytes]:
        count = 2 // ranks
        run = LAYOUT.block_size * LAYOUT.head_dim * LAYOUT.item_bytes
        rows = [whole[row * 2 * run : (row + 1) * 2 * run] for row in range(6)]
        layout = KvLayout(3, count, 8, 4, "float32", 4)
        return (
            layout,
            Heads(rank * count, count, 2),
            b"".join(r[rank * count * run : (rank + 1) * count * run] for r in rows),
        )

    for rank in range(writers):
        layout, heads, data = of(writers, rank)
        with rig(cache(url), layout=layout, heads=heads) as one:
            one.pool.block(0)[:] = data
            one.stack.offloader.touch(KEYS[:1])
            assert one.stack.offloader.offer([(KEYS[0], 0)]) == [0]
            one.settle()
    for rank in range(readers):
        layout, heads, data = of(readers, rank)
        with rig(cache(url), layout=layout, heads=heads) as one:
            store_of(one).refresh()
            found = one.stack.onboarder.look_up(KEYS[:1], None)
            load = one.stack.onboarder.load(found, [5], lambda _load: None)
            one.settle()

            assert load is not None
            assert load.prefix == 1
            assert bytes(one.pool.block(5)) == data


def test_a_stopped_server_costs_a_load_its_deadline_and_then_nothing(
    server: Swift, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamoc.runtime.kv.tiers.objects.REQUEST_TIMEOUT_S", 3.0)
    monkeypatch.setattr("dynamoc.runtime.kv.tiers.objects.RETRIES", 0)
    with rig(cache(url)) as one:
        one.store(KEYS)
        assert _until(lambda: one.load(KEYS) == 12)
        monkeypatch.setattr(PATIENCE, 1.0)
        server.signal(signal.SIGSTOP)
        try:
            assert one.load(KEYS) == 0
            _until(lambda: not store_of(one).is_up)
            assert not one.stack.onboarder.look_up(KEYS, None).sources, "it is off: nothing is asked of it"
            one.settle()
            report = one.stack.report()
        finally:
            server.signal(signal.SIGCONT)
        _until(lambda: store_of(one).is_up)
        monkeypatch.setattr(PATIENCE, 30.0)

        assert report.levels[0].is_up is False
        assert _until(lambda: one.load(KEYS) == 12)
        assert one.stack.staging.in_use == 0


def test_from_a_slow_server_comes_what_arrives_in_time(
    server: Swift, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with throttle(server.environment["AWS_ENDPOINT_URL"]) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        with rig(cache(url)) as one:
            assert len(one.store(KEYS)) == 12
            assert one.load(KEYS) == 12
            line.pause_s = 1.0
            monkeypatch.setattr(PATIENCE, 0.5)
            # As long as a load took before, and no longer, however busy the machine was then.
            monkeypatch.setattr(SHARE, 1.0)
            assert one.load(KEYS) < 12, "two rounds of requests take twice as long as the load may"
            one.settle()
            line.pause_s = 0.0
            monkeypatch.setattr(PATIENCE, 30.0)

            assert _until(lambda: one.load(KEYS) == 12)
            assert one.stack.staging.in_use == 0


def test_a_server_that_dies_and_comes_back_loses_nothing(server: Swift, url: str) -> None:
    with rig(cache(url)) as one:
        one.store(KEYS)
        server.stop()
        assert one.load(KEYS) == 0
        server.start()

        assert _until(lambda: one.load(KEYS) == 12)


def test_hundreds_of_pages_come_back_right(url: str) -> None:
    checked = 0
    with rig(cache(url)) as one:
        prompts = [chain(number, 32) for number in range(12)]
        for keys in prompts:
            one.store(keys)
        for keys in prompts:
            checked += one.load(keys)

    assert checked == 384


def _until(is_so: object, limit_s: float = 60.0) -> bool:
    assert callable(is_so)
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return True
