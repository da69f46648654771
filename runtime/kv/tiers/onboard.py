"""Up the tiers: a prompt's blocks come back to the device, as many as arrive whole and in time."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dynamoc.runtime.kv.tiers.choice import hidden_prefix, useful_prefix
from dynamoc.runtime.kv.tiers.device import Device
from dynamoc.runtime.kv.tiers.frames import Staging
from dynamoc.runtime.kv.tiers.host import Host
from dynamoc.runtime.kv.tiers.lane import Rank
from dynamoc.runtime.kv.tiers.ledger import Entry
from dynamoc.runtime.kv.tiers.lift import Chunk, Lifter, Tier
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import PageKey
from dynamoc.runtime.kv.tiers.store import Store
from dynamoc.runtime.kv.tiers.tally import Tally

SHORTEST_DEADLINE_S = 1.0
SLOWEST_SHARE = 0.1
"""Of the predicted speed: a load that is slower than this is given up."""
LOOK_S = 0.05

log = logging.getLogger(__name__)

_END = object()


class _Lift(NamedTuple):
    """A chunk of `pages` pages on its way."""

    tier: Tier
    pages: int
    steps: Generator[None]
    load: Load


@dataclass(frozen=True, slots=True)
class Found:
    """The pages of a prompt after what is on the device; `sources` numbers the tier of each leading one that is kept.

    The first `useful` of them are sooner loaded than computed.
    """

    keys: Sequence[PageKey]
    sources: Sequence[int]
    useful: int


class Onboarder:
    """Looks prefixes up, decides, and loads."""

    def __init__(
        self, device: Device, host: Host | None, stores: Sequence[Store], staging: Staging, tally: Tally
    ) -> None:
        self._device = device
        self._host = host
        self._stores = stores
        self._tiers: list[Tier] = [*([host] if host is not None else []), *stores]
        self._lifter = Lifter(device, host, staging, tally)
        self._tally = tally
        self._batch = max(1, round(device.batch_bytes / device.format.frame_bytes))
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._active: set[Load] = set()
        self._begun: Counter[str] = Counter()
        """Pages of each tier that are being loaded."""
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._expire, name="kv-deadlines", daemon=True)
        self._watch.start()

    def look_up(self, keys: Sequence[PageKey], compute_s: float | None, *, overlap: bool = False) -> Found:
        """What the tiers hold of a prompt, and how much of it is worth loading.

        `compute_s` is what a block takes to compute; None: unknown, so everything is loaded. With `overlap`, first
        layers come first, and the rest of the prompt is computed meanwhile.
        """
        sources = self._locate(keys)
        if not sources or compute_s is None:
            return Found(keys, sources, len(sources))
        seconds, start_s = self._foreseen(sources)
        pieces = min(len(self._pieces(self._tiers[source], in_pieces=overlap)) for source in set(sources))
        # Beside what no tier holds, there is always the block of the last token.
        rest = len(keys) - len(sources) + 1
        return Found(keys, sources, useful_prefix(seconds, compute_s, start_s, pieces, rest))

    def look_up_beside(self, keys: Sequence[PageKey], answer_s: float | None) -> Found:
        """The same where a peer computes the prompt in any case, and writes what is not loaded.

        It is foreseen to have done so in `answer_s`, and what is there by then costs nothing. None: unknown, so
        everything is loaded.
        """
        sources = self._locate(keys)
        if not sources or answer_s is None:
            return Found(keys, sources, len(sources))
        return Found(keys, sources, hidden_prefix(*self._foreseen(sources), answer_s))

    def credits(self, compute_s: float) -> tuple[float | None, ...]:
        """For G2, G3, G4: what loading a block saves of the `compute_s` it takes to compute; None if not measured."""
        shares: dict[str, float] = {}
        for tier in self._tiers:
            if tier.reading.measured and compute_s > 0:
                load_s = self._device.format.frame_bytes / tier.reading.bytes_per_s
                shares[tier.name] = round(max(0.0, 1 - load_s / compute_s), 2)
        return tuple(shares.get(name) for name in ("G2", "G3", "G4"))

    def decided(self, found: Found) -> None:
        """A request goes by this: count it."""
        hits = Counter(self._tiers[source].name for source in found.sources[: found.useful])
        self._tally.looked_up(hits, len(found.sources) - found.useful)

    def load(
        self,
        found: Found,
        blocks: Sequence[int],
        done: Callable[[Load], None],
        arrived: Callable[[Load], None] | None = None,
    ) -> Load | None:
        """Begin to fill `blocks`, which are the caller's alone until `done` or `Load.revoke`. None: nothing to load.

        With `arrived`, first layers come first, where pages can be had in pieces; see `Load`.
        """
        sources = found.sources[: found.useful]
        chunks = list(self._chunks(found.keys, sources, in_pieces=arrived is not None))
        count = sum(len(chunk.entries) for _, chunk in chunks)
        if not count:
            return None
        deadline = time.monotonic() + self._patience_s(sources[:count])
        load = Load(self._device, blocks[:count], len(chunks), deadline, done, arrived)
        with self._lock:
            self._active.add(load)
        number = next(self._numbers)
        for tier, chunk in chunks:
            with self._lock:
                self._begun[tier.name] += len(chunk.entries)
            steps = self._lifter.lift(tier, chunk, load)
            next(steps)
            self._line_up(_Lift(tier, len(chunk.entries), steps, load), (number, 0))
        return load

    def close(self) -> None:
        """End every load that is still under way."""
        self._stop.set()
        self._watch.join()
        for load in tuple(self._active):
            load.expire()

    # ---- what to load -------------------------------------------------------------------------------------

    def _locate(self, keys: Sequence[PageKey]) -> list[int]:
        """The first tier that holds each leading block."""
        sources: list[int] = []
        for number, tier in enumerate(self._tiers):
            if tier.is_up:
                found = tier.ledger.match(keys)
                sources.extend([number] * (found - len(sources)))
        return sources

    def _foreseen(self, sources: Sequence[int]) -> tuple[list[float], float]:
        """Seconds that each page takes to load, and that pass before the first."""
        frame = self._device.format.frame_bytes
        seconds = [frame / self._tiers[source].reading.bytes_per_s for source in sources]
        start_s = max(self._tiers[source].latency_s + self._queue_s(self._tiers[source]) for source in set(sources))
        return seconds, start_s

    def _queue_s(self, tier: Tier) -> float:
        """What loads that were begun before still take, at most."""
        return self._begun[tier.name] * self._device.format.frame_bytes / tier.reading.bytes_per_s

    def _patience_s(self, sources: Sequence[int]) -> float:
        seconds, start_s = self._foreseen(sources)
        return SHORTEST_DEADLINE_S + (start_s + sum(seconds)) / SLOWEST_SHARE

    def _chunks(
        self, keys: Sequence[PageKey], sources: Sequence[int], *, in_pieces: bool
    ) -> Iterator[tuple[Tier, Chunk]]:
        """Pin every page; where one has gone meanwhile, the load ends."""
        start = 0
        while start < len(sources):
            tier, end = self._tiers[sources[start]], start + 1
            pieces = self._pieces(tier, in_pieces=in_pieces)
            most = self._most_together(tier, len(sources), len(pieces))
            while end < len(sources) and sources[end] == sources[start] and end - start < most:
                end += 1
            entries = tier.ledger.pin([key.name for key in keys[start:end]])
            if entries:
                promoted = self._promote(tier, keys[start : start + len(entries)])
                yield tier, Chunk(start, entries, promoted, pieces)
            if len(entries) < end - start:
                return
            start = end

    def _most_together(self, tier: Tier, pages: int, pieces: int) -> int:
        """How many pages one thread takes at a time of a load of so many."""
        if tier.least_read_bytes is None:
            return 1
        # A piece of more pages is a copy as large; but every thread of the tier shall have its share.
        return max(self._batch, min(self._batch * pieces, -(-pages // tier.lane.threads)))

    def _pieces(self, tier: Tier, *, in_pieces: bool) -> Sequence[range]:
        format_ = self._device.format
        if not in_pieces or tier.least_read_bytes is None:
            return (range(format_.layers),)
        return format_.pieces(tier.least_read_bytes)

    def _promote(self, tier: Tier, keys: Sequence[PageKey]) -> list[Entry]:
        """Places in host memory for the pages of a store: all or none."""
        if self._host is None or tier is self._host:
            return []
        promoted: list[Entry] = []
        for key in keys:
            entry = self._host.ledger.begin(key)
            if not isinstance(entry, Entry):
                for begun in reversed(promoted):
                    self._host.ledger.abort(begun)
                return []
            promoted.append(entry)
        return promoted

    # ---- the copies ---------------------------------------------------------------------------------------

    def _line_up(self, lift: _Lift, rank: Rank) -> None:
        """By loads, and within one by pieces: every chunk's first layers come before any chunk's next ones."""
        if not lift.tier.lane.load(functools.partial(self._advance, lift, rank), rank):
            lift.steps.close()
            self._ended(lift)

    def _advance(self, lift: _Lift, rank: Rank) -> None:
        over = True
        try:
            over = next(lift.steps, _END) is _END
        finally:
            if over:
                self._ended(lift)
        if not over:
            self._line_up(lift, (rank[0], rank[1] + 1))

    def _ended(self, lift: _Lift) -> None:
        """A chunk has completed, whatever came of it."""
        load = lift.load
        # Over the whole load: its copies run side by side, and it is their sum that the next one can expect.
        moved = round(load.delivered * self._device.format.frame_bytes)
        lift.tier.reading.observe(moved, time.monotonic() - load.started)
        with self._lock:
            self._begun[lift.tier.name] -= lift.pages
        if load.settle():
            with self._lock:
                self._active.discard(load)

    def _expire(self) -> None:
        while not self._stop.wait(LOOK_S):
            now = time.monotonic()
            for load in tuple(self._active):
                if now > load.deadline and load.expire():
                    log.warning("a load of %d blocks was given up at its deadline", len(load.blocks))
