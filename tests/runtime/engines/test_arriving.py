"""Prompts are computed layer by layer while they are loaded: on none that was not verified, and to the same text."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from driving import Core, Listener, request
from tiny import VOCABULARY, worker_settings, write_model

from dynamoc.runtime.engines.native import arriving as arriving_module
from dynamoc.runtime.engines.native.arriving import Arriving
from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.native.runner import TorchRunner
from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.kv.tiers.host import Host
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import ALIGN, page_of
from dynamoc.runtime.manifest import CacheSettings, DiskTier

BLOCK = 16
PAGES = 6
PROMPT = [3 + n * 7 % 150 for n in range(PAGES * BLOCK + 5)]
FILLERS = [[3 + (n * 11 + k) % 150 for n in range(PAGES * BLOCK + 5)] for k in range(1, 4)]
UNSEEN = [5, 6, 7, 8] * 10
POISON = b"\x4b"
"""As float32 a huge number, but finite, as all that is in a pool: one word of it that is read spoils the text."""
GREEDY: dict[str, object] = {"temperature": 0.0}
DEAR_S = 1e4
"""What a token takes to compute, as far as the scheduler knows: a load is always foreseen to come in time."""
WAIT_S = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eight-layers")
    write_model(path, num_hidden_layers=8, num_attention_heads=6, num_key_value_heads=3, head_dim=32)
    return path


class Rig:
    """An engine with pages in host memory, or on disk, whose pieces can be held back and looked at."""

    def __init__(self, folder: Path, blocks: int = 16, disk: Path | None = None) -> None:
        settings = worker_settings(blocks=blocks, block_size=BLOCK, max_batched_tokens=256)
        self.runner = TorchRunner(settings, folder)
        below = {"host_bytes": 64 << 20} if disk is None else {"disk": DiskTier(str(disk), 64 << 20)}
        cache = CacheSettings(admission="all", **below)
        self.engine = CoreEngine("tiny", self.runner, msgspec.structs.replace(settings, cache=cache))
        self.engine.load(lambda _fraction, _what: None)
        assert self.engine._stack is not None
        assert self.engine._scheduler is not None
        self.stack, self.scheduler = self.engine._stack, self.engine._scheduler
        for tier in self.stack._tiers:
            tier.least_read_bytes = 0
        self.format = self.stack._device.format
        self.told: list[Written] = []
        self.on_told: Callable[[Written], None] = self.told.append
        self.began = threading.Event()
        self.read_early: list[str] = []
        self.layers_read = 0
        self._arriving: Arriving | None = None
        self._watch_the_runner()
        self._poison_what_is_loaded()
        self.listener = self._listen()
        self.key = 0

    @property
    def host(self) -> Host:
        """The pages in host memory."""
        assert self.stack.host is not None
        return self.stack.host

    def _listen(self) -> Listener:
        start = self.engine.start

        def with_told(on_step: Callable[..., None]) -> None:
            start(on_step, lambda written: self.on_told(written))

        self.engine.start = with_told  # type: ignore[method-assign,assignment]
        return Listener(self.engine)

    def _watch_the_runner(self) -> None:
        """Note when a step begins whose blocks are arriving; look at each layer of them before it is read."""
        execute, attention = self.runner._execute, self.runner._attention
        assert attention is not None
        run = attention.run

        def watched_execute(step: object, progress: object, arriving: Arriving | None) -> object:
            self._arriving = arriving
            if arriving is not None:
                self.began.set()
            return execute(step, progress, arriving)  # type: ignore[arg-type]

        def watched_run(layer: int, qkv: object) -> object:
            for load in self._arriving._loads if self._arriving is not None else ():
                self.layers_read += 1
                if load.groups_there <= layer // self.format.group_layers:
                    self.read_early.append(f"layer {layer} of {load.blocks}")
                start, end = layer * self.format.layer_bytes, (layer + 1) * self.format.layer_bytes
                for block in load.blocks:
                    if bytes(self.runner.pool().block(block)[start:end]).startswith(POISON * 8):  # type: ignore[attr-defined]
                        self.read_early.append(f"layer {layer} of block {block} was not written")
            return run(layer, qkv)  # type: ignore[arg-type]

        self.runner._execute = watched_execute  # type: ignore[method-assign,assignment]
        attention.run = watched_run  # type: ignore[method-assign,assignment]

    def _poison_what_is_loaded(self) -> None:
        onboarder = self.stack.onboarder
        load = onboarder.load

        def poisoned(found: object, blocks: list[int], *rest: object) -> object:
            for block in blocks:
                page = self.runner.pool().block(block)  # type: ignore[attr-defined]
                page[:] = POISON * len(page)
            return load(found, blocks, *rest)  # type: ignore[arg-type]

        onboarder.load = poisoned  # type: ignore[method-assign,assignment]

    def before_pieces(self, call: Callable[[range], object]) -> None:
        """Have `call` done before each piece, with its layers."""
        lifter = self.stack.onboarder._lifter
        piece = type(lifter)._piece

        def held(tier: object, chunk: object, layers: range, *rest: object) -> None:
            call(layers)
            piece(lifter, tier, chunk, layers, *rest)  # type: ignore[arg-type]

        lifter._piece = held  # type: ignore[method-assign,assignment]

    def ask(self, prompt: list[int], count: int = 6, **fields: object) -> int:
        self.key += 1
        self.engine.add(request(self.key, prompt, count, **GREEDY, **fields))
        return self.key

    def answer(self, prompt: list[int] = PROMPT, count: int = 6) -> list[int]:
        key = self.ask(prompt, count)
        return self.finish(key)[key]

    def finish(self, *keys: int) -> dict[int, list[int]]:
        """The tokens of these requests, whatever else comes in between."""
        while not all(key in self._ended() for key in keys):
            report = self.listener.next(WAIT_S)
            assert report.failure is None, report.failure
        outputs = [output for report in self.listener.seen for output in report.outputs]
        assert not [output.error for output in outputs if output.error]
        return {key: [t for output in outputs if output.request_id == key for t in output.tokens] for key in keys}

    def _ended(self) -> set[int]:
        return {o.request_id for report in self.listener.seen for o in report.outputs if o.finish is not None}

    def settle(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.stack.idle():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def evict(self) -> list[int]:
        """Answer the prompt, then push it out of the device: the next time, it is loaded and computed side by side."""
        expected = self.answer()
        self.settle()
        for filler in FILLERS:
            self.answer(filler)
            self.settle()
        assert self.scheduler.tiering is not None
        self.scheduler.tiering.speed.seconds_per_token = DEAR_S
        return expected

    def damage(self, page: int, group: int) -> None:
        """Flip a bit of a page of the prompt in host memory."""
        assert self.scheduler.tiering is not None
        key = self.scheduler.tiering._keys(PROMPT, 0, None)[page]
        (entry,) = self.host.ledger.pin([key.name])
        self.host.frame(entry)[ALIGN + group * self.format.group_layers * self.format.layer_bytes + 5] ^= 2
        self.host.ledger.unpin([entry])

    def counted(self) -> Counter[str]:
        """What came of loads, so far."""
        while not self.listener.reports.empty():
            self.listener.next()
        counts: Counter[str] = Counter()
        for tiers in [report.tiers for report in self.listener.seen if report.tiers is not None]:
            counts["overlapped"] += tiers.overlapped
            counts["void"] += tiers.void_steps
            counts["hits"] += tiers.hits.total()
            counts["corrupt"] += tiers.corrupt.total()
        return counts

    def wait_for(self, what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.counted()[what]:
            assert time.monotonic() < deadline, f"nothing {what}"
            time.sleep(0.001)

    def close(self) -> None:
        self.engine.stop()
        self.scheduler.check_integrity()


@contextlib.contextmanager
def rig(folder: Path, **options: Any) -> Iterator[Rig]:
    made = Rig(folder, **options)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a step that is not held up on purpose is not given up."""
    monkeypatch.setattr(arriving_module, "PATIENCE_S", WAIT_S)


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_the_text_is_the_same_and_no_layer_is_read_before_it_is_there(tier: str, folder: Path, tmp_path: Path) -> None:
    with rig(folder, disk=tmp_path if tier == "disk" else None) as one:
        expected = one.evict()
        # Every piece but the first comes while the step is computed.
        one.before_pieces(lambda layers: one.began.wait(WAIT_S) if layers.start else None)
        again = one.answer()

        assert again == expected
        assert not one.read_early
        assert one.layers_read == one.format.layers
        assert one.counted() == Counter(overlapped=1, hits=PAGES)
        cached = [o.cached_tokens for r in one.listener.seen for o in r.outputs if o.request_id == one.key]
        assert max(cached) == PAGES * BLOCK


@pytest.mark.parametrize(("page", "group"), [(0, 0), (3, 0), (0, 1), (3, 4), (5, 7)])
def test_a_damaged_layer_leads_to_recomputing(group: int, page: int, folder: Path) -> None:
    with rig(folder) as one:
        expected = one.evict()
        one.damage(page, group)
        one.before_pieces(lambda layers: one.began.wait(WAIT_S) if layers.start and group else None)
        again = one.answer()
        counted = one.counted()

        assert again == expected
        assert not one.read_early
        assert counted["corrupt"] == 1
        assert counted["void"] == bool(group), "computing begins with the first group"
        cached = [o.cached_tokens for r in one.listener.seen for o in r.outputs if o.request_id == one.key]
        assert max(cached) == page * BLOCK


def test_others_do_not_wait_long_for_layers_that_hang(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(folder) as one:
        expected = one.evict()
        go = threading.Event()
        one.before_pieces(lambda layers: go.wait(WAIT_S) if layers.start > 3 else None)
        monkeypatch.setattr(arriving_module, "PATIENCE_S", 0.02)
        key = one.ask(PROMPT)
        one.wait_for("void")
        other = one.answer(UNSEEN)
        assert key not in one._ended(), "the other one does not wait for it"
        go.set()
        tokens = one.finish(key)

        assert tokens[key] == expected
        assert other == one.answer(UNSEEN)
        assert one.counted()["void"] == 1, "the second time, it is computed when all of it is there"
        assert not one.read_early


@pytest.mark.parametrize("when", ["while its step waits", "after its step was given up"])
def test_a_request_that_is_cancelled_half_way_gives_all_blocks_back(
    when: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(folder) as one:
        expected = one.evict()
        go = threading.Event()
        one.before_pieces(lambda layers: go.wait(WAIT_S) if layers.start > 2 else None)
        if when.startswith("after"):
            monkeypatch.setattr(arriving_module, "PATIENCE_S", 0.02)
        key = one.ask(PROMPT)
        assert one.began.wait(WAIT_S)
        if when.startswith("after"):
            one.wait_for("void")
        one.engine.cancel(key)
        go.set()
        one.settle()
        one.before_pieces(lambda _layers: None)
        again = one.answer()
        one.settle()

        assert again == expected
        assert not one.read_early
        deadline = time.monotonic() + WAIT_S
        while one.scheduler.blocks.active and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not one.scheduler.blocks.active


def test_late_news_of_an_earlier_load_is_not_taken_for_that_of_the_present_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preempted request loads again under its key: what was told of its first load says nothing of the second."""
    with rig(folder) as one:
        expected = one.evict()
        assert one.scheduler.tiering is not None
        loads: list[Load] = []
        told = one.scheduler.tiering._on_loaded
        one.scheduler.tiering._on_loaded = lambda key, load: (loads.append(load), told(key, load))[1]
        assert one.answer() == expected
        assert one.evict() == expected
        go, taken = threading.Event(), threading.Event()
        one.before_pieces(lambda layers: go.wait(WAIT_S) if layers.start > 3 else None)
        monkeypatch.setattr(arriving_module, "PATIENCE_S", 0.02)
        key = one.ask(PROMPT)
        one.wait_for("void")
        one.engine._post(lambda scheduler: (scheduler.loaded(key, loads[0]), taken.set())[0])
        assert taken.wait(WAIT_S)
        time.sleep(0.3)
        one.counted()
        assert key not in one._ended(), "most of its layers are not there"
        go.set()

        assert one.finish(key)[key] == expected
        assert not one.read_early
        cached = [o.cached_tokens for r in one.listener.seen for o in r.outputs if o.request_id == key]
        assert max(cached) == PAGES * BLOCK


def test_an_engine_stops_while_a_step_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Rig(folder)
    one.evict()
    go = threading.Event()
    one.before_pieces(lambda layers: go.wait(WAIT_S) if layers.start > 2 else None)
    monkeypatch.setattr(arriving_module, "PATIENCE_S", 0.1)
    one.ask(PROMPT)
    assert one.began.wait(WAIT_S)
    threading.Timer(0.2, go.set).start()  # closing waits for the copy that hangs
    one.engine.stop()


@pytest.mark.parametrize("group", [None, 5], ids=["whole", "damaged"])
def test_what_is_told_of_a_prompt_for_a_peer_is_there_and_stays(group: int | None, folder: Path) -> None:
    """Each layer of each block is told once, none before it is certain, and its bytes do not change any more."""
    with rig(folder) as one:
        one.evict()
        if group is not None:
            one.damage(2, group)
        one.before_pieces(lambda layers: one.began.wait(WAIT_S) if layers.start else None)
        sent: dict[tuple[int, int], bytes] = {}
        doubles: list[tuple[int, int]] = []

        def span(block: int, layer: int) -> bytes:
            size = one.format.layer_bytes
            return bytes(one.runner.pool().block(block)[layer * size : (layer + 1) * size])  # type: ignore[attr-defined]

        def push(written: Written) -> None:
            for block in written.blocks:
                for layer in written.layers:
                    doubles.extend([(block, layer)] if (block, layer) in sent else [])
                    sent[block, layer] = span(block, layer)

        one.on_told = push
        one.ask(PROMPT, 1, hold_kv=True)
        prefilled = one.listener.prefilled()
        key = prefilled.key

        assert not doubles
        assert set(sent) == {(block, layer) for block in prefilled.blocks for layer in range(one.format.layers)}
        assert all(span(block, layer) == data for (block, layer), data in sent.items())
        assert not any(data.startswith(POISON * 8) for data in sent.values())
        assert one.counted()["void"] == (group is not None)
        pages = [page_of(one.format, one.host.frame(entry)) for entry in _pinned(one)]
        for page, block in zip(pages, prefilled.blocks, strict=False):
            assert bytes(page) == b"".join(sent[block, layer] for layer in range(one.format.layers))
        one.engine.release(key)


def _pinned(one: Rig) -> list:
    assert one.scheduler.tiering is not None
    entries = one.host.ledger.pin([key.name for key in one.scheduler.tiering._keys(PROMPT, 0, None)])
    one.host.ledger.unpin(entries)
    return entries


def test_a_crowd_whose_prefixes_come_and_go_gets_the_right_text(folder: Path) -> None:
    """Shared prefixes, slow pieces, damage and cancels, in a pool too small for them."""
    rng = random.Random(8)
    stems = [[rng.randrange(2, VOCABULARY) for _ in range(80)] for _ in range(7)]
    prompts = [
        rng.choice(stems) + [rng.randrange(2, VOCABULARY) for _ in range(rng.randrange(1, 30))] for _ in range(36)
    ]
    settings = worker_settings(blocks=64, block_size=BLOCK, max_batched_tokens=256)
    alone = Core(settings, TorchRunner(settings, folder))
    for key, prompt in enumerate(prompts, 1):
        alone.scheduler.add(request(key, prompt, 5, **GREEDY))
    alone.run()
    with rig(folder, blocks=18) as one:
        one.before_pieces(lambda layers: one.began.wait(0.3) if layers.start == 1 else None)
        for wave in range(0, len(prompts), 6):
            assert one.scheduler.tiering is not None
            one.scheduler.tiering.speed.seconds_per_token = DEAR_S
            one.began.clear()
            keys = [one.ask(prompt, 5) for prompt in prompts[wave : wave + 6]]
            dropped = rng.choice(keys)
            one.engine.cancel(dropped)
            kept = [key for key in keys if key != dropped]
            for key, tokens in one.finish(*kept).items():
                assert tokens == alone.tokens[key], f"request {key}"
            one.settle()
            _damage_some(one, rng)
        counted = one.counted()

        assert not one.read_early
        assert counted["overlapped"] > 0
        assert counted["hits"] > 10
        assert counted["corrupt"] > 0
    alone.close()


def _damage_some(one: Rig, rng: random.Random) -> None:
    names = list(one.host.ledger._entries)
    for name in rng.sample(names, min(2, len(names))):
        if entries := one.host.ledger.pin([name]):
            one.host.frame(entries[0])[ALIGN + rng.randrange(one.format.page_bytes)] ^= 4
            one.host.ledger.unpin(entries)
