"""The life of a scheduler with tiers that fill reserved blocks beside a peer: what they like, when they like."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from driving import page_bytes
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import consumes, initialize, invariant, multiple, rule
from test_scheduler_stateful import BLOCK_SIZE, PROMPTS, Life

from dynamoc.runtime.engines.native.sequence import Sequence as Prompt
from dynamoc.runtime.engines.native.tiering import Tiering
from dynamoc.runtime.engines.protocol import Reserved
from dynamoc.runtime.kv.tiers.device import HostDevice
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.onboard import Found
from dynamoc.runtime.kv.tiers.page import PageKey, page_format
from dynamoc.runtime.plane.messages import TokenOutput


class Shelf:
    """Stands for every tier: says it has as many pages as the test wants, and loads are the test's to complete."""

    def __init__(self, device: HostDevice) -> None:
        self.pages = 3
        self.begun: list[Load] = []
        self._device = device

    def look_up(self, keys: Sequence[PageKey], compute_s: float | None, *, overlap: bool) -> Found:
        del compute_s, overlap
        return self.look_up_beside(keys, None)

    def look_up_beside(self, keys: Sequence[PageKey], answer_s: float | None) -> Found:
        del answer_s
        useful = min(self.pages, len(keys))
        return Found(keys, [0] * useful, useful)

    def decided(self, found: Found) -> None:
        del found

    def load(
        self, found: Found, blocks: Sequence[int], done: Callable[[Load], None], arrived: object = None
    ) -> Load | None:
        assert arrived is None, "how fast prompts are computed is not known here"
        assert len(blocks) == found.useful
        self.begun.append(Load(self._device, blocks, 1, time.monotonic() + 1000, done))
        return self.begun[-1]


class HandTiering(Tiering):
    """Knows which pages each load is to bring."""

    def __init__(self, shelf: Shelf, core: object) -> None:
        nothing = SimpleNamespace(touch=lambda _keys: None, offer=lambda _pages: [])
        scheduler = core.scheduler  # type: ignore[attr-defined]
        stack = SimpleNamespace(onboarder=shelf, offloader=nothing)
        super().__init__(stack, scheduler.blocks, scheduler.loaded, scheduler.arrived)  # type: ignore[arg-type]
        self.expected: dict[Load, tuple[int, list[bytes]]] = {}

    def load(self, sequence: Prompt, found: Found, *, overlap: bool = False) -> int:
        count = super().load(sequence, found, overlap=overlap)
        if count:
            first = sequence.computed // BLOCK_SIZE
            load = self.load_of(sequence.key)
            self.expected[load] = sequence.key, page_bytes(sequence.tokens, BLOCK_SIZE)[first : first + count]
        return count


class TieredLife(Life):
    """Loads come whole, in part, or not at all, before and after whatever else happens to their prompts."""

    @initialize(
        blocks=st.integers(9, 24),
        max_sequences=st.integers(1, 5),
        max_batched_tokens=st.integers(1, 20),
        prefix_caching=st.just(True),
    )
    def start(self, blocks: int, max_sequences: int, max_batched_tokens: int, prefix_caching: bool):
        super().start(blocks, max_sequences, max_batched_tokens, prefix_caching)
        pool = self.core.pool
        self.shelf = Shelf(HostDevice(pool, page_format(pool.layout, "mock")))
        self.tiering = self.core.scheduler.tiering = HandTiering(self.shelf, self.core)
        self.stale: list[tuple[Load, list[bytes]]] = []

    @rule(pages=st.integers(0, 6))
    def stock(self, pages: int):
        self.shelf.pages = pages

    @rule(which=st.integers(0, 3), right=st.integers(0, 6), garbage=st.booleans())
    def end_load(self, which: int, right: int, garbage: bool):
        """One load brings so many pages, and perhaps reads something wrong for the next, which is never written."""
        if not self.shelf.begun:
            return
        load = self.shelf.begun.pop(which % len(self.shelf.begun))
        _, pages = self.tiering.expected.pop(load)
        self.stale.append((load, pages))
        is_wanted = load.wants(0)
        if right:
            assert (load.deliver(0, [memoryview(page) for page in pages[:right]]) is not None) == is_wanted
        if right < len(pages) or garbage:
            load.fail(min(right, len(pages)))
        load.settle()

    @invariant()
    def loads_have_an_owner(self):
        """Only who waits for a load has blocks that it may still write."""
        if hasattr(self, "tiering"):
            scheduler = self.core.scheduler
            owners = {key for load, (key, _) in self.tiering.expected.items() if load.wants(0)}
            assert owners <= {*scheduler._reserved, *scheduler._loading}

    @rule()
    def come_late(self):
        """Copies that were still reading touch nothing."""
        for load, pages in self.stale:
            assert not load.deliver(0, [memoryview(b"\xdd" * len(page)) for page in pages])

    @rule(target=Life.reserving, job=consumes(Life.reserving))
    def fill_and_resume(self, job: tuple[int, list[int]]):
        key, prompt = job
        reserved = self.core.reserved.get(key)
        if reserved is None or (reserved.loading and key not in self.core.filled):
            return job
        first = self.first_for_peer(reserved)
        pages = page_bytes(prompt, BLOCK_SIZE)
        for position in range(reserved.resident):
            assert bytes(self.core.pool.block(reserved.blocks[position])) == pages[position], "not resident at all"
        for position in range(first, len(pages)):
            self.core.pool.block(reserved.blocks[position])[:] = pages[position]
        del self.core.reserved[key]
        token = self.expected[key][0]
        self.core.tokens[key].append(token)
        self.core.scheduler.resume(key, TokenOutput(key, (token,)))
        return multiple()

    def first_for_peer(self, reserved: Reserved) -> int:
        """The first block a peer may be writing: once the tiers are done, what they did not bring is asked for too."""
        return reserved.resident + self.core.filled.get(reserved.key, reserved.loading)

    @rule(target=Life.quarantined, job=consumes(Life.reserving))
    def quarantine(self, job: tuple[int, list[int]]):
        key = job[0]
        self.dropped.add(key)
        reserved = self.core.reserved.pop(key, None)
        if reserved is not None:
            self.late[key] = reserved.blocks[self.first_for_peer(reserved) :]
        self.core.scheduler.quarantine(key)
        return key

    @rule(job=consumes(Life.reserving))
    def release_unasked(self, job: tuple[int, list[int]]):
        """The client went before the peer was asked, perhaps before there were blocks."""
        key = job[0]
        self.dropped.add(key)
        release = self.core.scheduler.release if key in self.core.reserved else self.core.scheduler.cancel
        self.core.reserved.pop(key, None)
        release(key)

    @rule(target=Life.reserving, prompt=PROMPTS)
    def reserve_again(self, prompt: list[int]):
        """Many prompts that begin alike, most of which get their blocks at once."""
        key = self.enter("reserve", [7] * len(prompt), 3, 0)
        self.step(1)
        return key, [7] * len(prompt)

    def teardown(self):
        if hasattr(self, "core"):
            self.shelf.pages = 0
            while self.shelf.begun:
                self.end_load(0, 6, garbage=False)
                self.core.step()
                self.follow()
        super().teardown()


TieredLife.TestCase.settings = hypothesis_settings(Life.TestCase.settings, max_examples=40)
TestTieredLife = TieredLife.TestCase
