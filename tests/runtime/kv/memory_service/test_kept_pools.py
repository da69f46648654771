"""A pool is there again for whoever comes next under its name; never for two, and never as something else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service.journal import WRITERS, Record
from dynamoc.runtime.kv.memory_service.kept import KeptPool, KeptShape, keep_as
from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError, memory_of
from dynamoc.runtime.kv.memory_service.owner import Owner
from dynamoc.runtime.kv.memory_service.place import Place
from dynamoc.runtime.kv.memory_service.shelf import Shelf
from dynamoc.runtime.manifest import KvSettings, WorkerSettings

KEY = b"k" * 32
LAYOUT = KvLayout(layers=2, heads=1, head_dim=8, block_size=4, dtype="uint8", item_bytes=1)
SHAPE = KeptShape(LAYOUT, 5, "a model")


class Service:
    """An owner in a thread."""

    def __init__(self, run_dir: Path) -> None:
        self.owner = Owner(Place(run_dir, "cpu", None).path(), KEY, memory_of(None), Shelf(None))
        self._thread = threading.Thread(target=self.owner.serve)
        self._thread.start()

    def end(self) -> None:
        self.owner.close()
        self._thread.join()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    (tmp_path / "key").write_bytes(KEY)
    monkeypatch.setenv("DYNAMOC_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("DYNAMOC_PROCESS", "decode-0")
    made = Service(tmp_path)
    yield made
    made.end()


def fill(pool: KeptPool, block: int, byte: int) -> None:
    pool.pool.block(block)[:] = bytes([byte]) * LAYOUT.block_bytes


def recorded(pool: KeptPool, block: int, parent: bytes | None = None) -> Record:
    made = Record(parent, bytes([block] * 16), pool.digests([block])[0])
    pool.journal.store(block, made)
    return made


def test_bytes_and_records_are_there_for_the_next(service: Service) -> None:
    first = KeptPool(SHAPE)
    assert not first.left.records
    assert not first.lost_because
    fill(first, 3, 7)
    made = recorded(first, 3)
    first.journal.lend([1])
    first.journal.admit(b"a writer")
    nonce = first.pool.nonce
    first.close()

    second = KeptPool(SHAPE)

    assert second.left.records == {3: made}
    assert second.left.held_back == {1}
    assert second.left.writers == (b"a writer",)
    assert bytes(second.pool.block(3)) == b"\7" * LAYOUT.block_bytes
    assert second.digests([3]) == [made.digest]
    assert second.pool.nonce != nonce, "to peers it is another pool"
    second.close()


@pytest.mark.parametrize(
    "other", [KeptShape(LAYOUT, 5, "another"), KeptShape(LAYOUT, 6, "a model"),
              KeptShape(KvLayout(1, 2, 8, 4, "uint8", 1), 5, "a model")],
    ids=["model", "blocks", "layout"],
)  # fmt: skip
def test_another_meaning_is_another_pool(service: Service, other: KeptShape) -> None:
    first = KeptPool(SHAPE)
    fill(first, 0, 7)
    recorded(first, 0)
    first.close()
    second = KeptPool(other)

    assert second.lost_because == "other"
    assert not second.left.records
    assert not any(bytes(second.pool.data))
    second.close()
    third = KeptPool(SHAPE)
    assert third.lost_because == "other"
    assert not third.left.records
    third.close()


def test_workers_of_other_names_have_other_pools(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = KeptPool(SHAPE)
    fill(mine, 0, 7)
    monkeypatch.setenv("DYNAMOC_PROCESS", "decode-1")
    other = KeptPool(SHAPE)
    fill(other, 0, 9)

    assert bytes(mine.pool.block(0)) == b"\7" * LAYOUT.block_bytes
    mine.close()
    other.close()


def test_nobody_gets_a_pool_that_is_in_use(service: Service) -> None:
    first = KeptPool(SHAPE)

    with pytest.raises(
        MemoryServiceError, match=r"the pool of decode-0 is not free within 0.2 s: session 1 of process"
    ):
        KeptPool(SHAPE, limit_s=0.2)
    taken: list[KeptPool] = []
    waiting = threading.Thread(target=lambda: taken.append(KeptPool(SHAPE)))
    waiting.start()
    first.close()
    waiting.join(20)
    assert len(taken) == 1
    taken[0].close()


def test_a_spoilt_journal_costs_the_pool(service: Service) -> None:
    first = KeptPool(SHAPE)
    fill(first, 0, 7)
    recorded(first, 0)
    for number in range(WRITERS + 1):
        first.journal.admit(b"%d" % number)
    first.close()
    second = KeptPool(SHAPE)

    assert second.lost_because == "journal"
    assert not second.left.records
    assert not any(bytes(second.pool.data)), "memory that nobody has mapped"
    second.close()


def test_an_end_of_the_owner_is_seen_and_the_memory_stays(service: Service, tmp_path: Path) -> None:
    first = KeptPool(SHAPE)
    fill(first, 0, 7)
    assert first.is_kept()
    service.end()

    assert not first.is_kept()
    assert bytes(first.pool.block(0)) == b"\7" * LAYOUT.block_bytes
    again = Service(tmp_path)
    second = KeptPool(SHAPE)
    assert not any(bytes(second.pool.data))
    first.close()
    second.close()
    again.end()


def test_outside_a_run_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNAMOC_RUN_DIR", raising=False)
    with pytest.raises(ValueError, match="needs a run folder"):
        KeptPool(SHAPE)


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    kv = KvSettings(block_size=4, blocks=5, dtype="uint8", prefix_caching=False)
    settings = WorkerSettings(engine="mocker", device="cpu", dtype="float32", kv=kv, context_length=8,
                              max_batched_tokens=8, max_sequences=1)  # fmt: skip
    with pytest.raises(ValueError, match="keeps nothing"):
        keep_as("m", settings)
