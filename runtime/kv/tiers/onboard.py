"""Up the tiers: a prompt's blocks come back to the device, as many as arrive whole and in time."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dynamoc.runtime.kv.tiers.choice import useful_prefix
from dynamoc.runtime.kv.tiers.device import Device
from dynamoc.runtime.kv.tiers.frames import Staging, StagingTimeoutError
from dynamoc.runtime.kv.tiers.host import Host
from dynamoc.runtime.kv.tiers.ledger import Entry
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import PageError, PageKey, check, page_of
from dynamoc.runtime.kv.tiers.store import Store
from dynamoc.runtime.kv.tiers.tally import Outcome, Path, Tally

SHORTEST_DEADLINE_S = 1.0
SLOWEST_SHARE = 0.1
"""Of the predicted speed: a load that is slower than this is given up."""
LOOK_S = 0.05

log = logging.getLogger(__name__)

Tier = Host | Store


@dataclass(frozen=True, slots=True)
class Found:
    """The pages of a prompt after what is on the device; `sources` numbers the tier of each leading one that is kept.

    The first `useful` of them are sooner loaded than computed.
    """

    keys: Sequence[PageKey]
    sources: Sequence[int]
    useful: int


@dataclass(slots=True)
class _Chunk:
    """Consecutive pages of one tier, pinned, from position `start` of the load; `promoted` are their places in G2."""

    start: int
    entries: list[Entry]
    promoted: list[Entry]


def load_path(tier: Tier, via_host: bool) -> Path:
    """How pages come back: stores pass through host memory, or through staging buffers where there is none for them."""
    via = {"G2": "copy", "G3": "file", "G4": "object"}[tier.name]
    return Path(via if via_host else f"bounce+{via}", tier.name, "G1", "onboard")


class Onboarder:
    """Looks prefixes up, decides, and loads."""

    def __init__(
        self, device: Device, host: Host | None, stores: Sequence[Store], staging: Staging, tally: Tally
    ) -> None:
        self._device = device
        self._host = host
        self._stores = stores
        self._tiers: list[Tier] = [*([host] if host is not None else []), *stores]
        self._staging = staging
        self._tally = tally
        self._batch = max(1, round(device.batch_bytes / device.format.frame_bytes))
        self._lock = threading.Lock()
        self._active: set[Load] = set()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._expire, name="kv-deadlines", daemon=True)
        self._watch.start()

    def look_up(self, keys: Sequence[PageKey], compute_s: float | None) -> Found:
        """What the tiers hold of a prompt, and how much of it is worth loading.

        `compute_s` is what a block takes to compute; None: unknown, so everything is loaded.
        """
        sources = self._locate(keys)
        if not sources or compute_s is None:
            return Found(keys, sources, len(sources))
        frame = self._device.format.frame_bytes
        seconds = [frame / self._tiers[source].reading.bytes_per_s for source in sources]
        start_s = max(self._tiers[source].latency_s + self._queue_s(self._tiers[source]) for source in set(sources))
        return Found(keys, sources, useful_prefix(seconds, compute_s, start_s))

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

    def load(self, found: Found, blocks: Sequence[int], done: Callable[[Load], None]) -> Load | None:
        """Begin to fill `blocks`, which are the caller's alone until `done` or `Load.revoke`. None: nothing to load."""
        sources = found.sources[: found.useful]
        chunks = list(self._chunks(found.keys, sources))
        count = sum(len(chunk.entries) for _, chunk in chunks)
        if not count:
            return None
        deadline = time.monotonic() + self._patience_s(sources[:count])
        load = Load(self._device, blocks[:count], len(chunks), deadline, done)
        with self._lock:
            self._active.add(load)
        for tier, chunk in chunks:
            if not tier.lane.load(functools.partial(self._run, tier, chunk, load)):
                self._drop(tier, chunk, load)
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

    def _queue_s(self, tier: Tier) -> float:
        return tier.lane.queued_loads * self._device.batch_bytes / tier.reading.bytes_per_s

    def _patience_s(self, sources: Sequence[int]) -> float:
        frame = self._device.format.frame_bytes
        expected = sum(frame / self._tiers[source].reading.bytes_per_s for source in sources)
        expected += max(self._tiers[source].latency_s + self._queue_s(self._tiers[source]) for source in set(sources))
        return SHORTEST_DEADLINE_S + expected / SLOWEST_SHARE

    def _chunks(self, keys: Sequence[PageKey], sources: Sequence[int]) -> Iterator[tuple[Tier, _Chunk]]:
        """Pin every page; where one has gone meanwhile, the load ends."""
        start = 0
        while start < len(sources):
            end = start + 1
            while end < len(sources) and sources[end] == sources[start] and end - start < self._batch:
                end += 1
            tier = self._tiers[sources[start]]
            entries = tier.ledger.pin([key.name for key in keys[start:end]])
            if entries:
                yield tier, _Chunk(start, entries, self._promote(tier, keys[start : start + len(entries)]))
            if len(entries) < end - start:
                return
            start = end

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

    # ---- a copy -------------------------------------------------------------------------------------------

    def _run(self, tier: Tier, chunk: _Chunk, load: Load) -> None:
        path = load_path(tier, via_host=isinstance(tier, Host) or bool(chunk.promoted))
        try:
            if load.is_over:
                self._tally.failed(path, Outcome.CANCELLED, len(chunk.entries))
                return
            with self._tally.copying(path) as arrived:
                if isinstance(tier, Host):
                    whole = self._deliver(tier, chunk, 0, [tier.frame(entry) for entry in chunk.entries], load, path)
                else:
                    whole = self._fetch(tier, chunk, load, path)
                arrived.extend([self._device.format.page_bytes] * whole)
        finally:
            self._drop(tier, chunk, load)

    def _fetch(self, store: Store, chunk: _Chunk, load: Load, path: Path) -> int:
        """Read into host memory, or through staging buffers; how many leading pages arrived on the device."""
        if chunk.promoted and self._host is not None:
            frames = [self._host.frame(entry) for entry in chunk.promoted]
            whole = self._read(store, chunk, 0, frames, load, path)
            for entry in chunk.promoted[:whole]:
                self._host.ledger.commit(entry)
            del chunk.promoted[:whole]
            return whole
        whole = 0
        while whole < len(chunk.entries) and not load.is_over:
            try:
                frames = self._staging.borrow(len(chunk.entries) - whole, max(0.0, load.deadline - time.monotonic()))
            except StagingTimeoutError:
                self._tally.failed(path, "staging", len(chunk.entries) - whole)
                break
            try:
                got = self._read(store, chunk, whole, frames, load, path)
            finally:
                self._staging.give_back(frames)
            whole += got
            if got < len(frames):
                break
        return whole

    def _read(
        self, store: Store, chunk: _Chunk, first: int, frames: Sequence[memoryview], load: Load, path: Path
    ) -> int:
        entries = chunk.entries[first : first + len(frames)]
        good = len(entries)
        for position, failure in reversed(list(enumerate(store.read(entries, frames)))):
            if failure is not None:
                good = position
                self._tally.failed(path, failure.reason)
                if failure.reason == "corrupt":
                    self._tally.corrupt(store.name)
                if failure.lost:
                    store.discard(entries[position])
        return self._deliver(store, chunk, first, frames[:good], load, path)

    def _deliver(
        self, tier: Tier, chunk: _Chunk, first: int, frames: Sequence[memoryview], load: Load, path: Path
    ) -> int:
        """Check frames and copy them to the device; how many leading ones are right and there."""
        format_ = self._device.format
        good = len(frames)
        for position, frame in enumerate(frames):
            entry = chunk.entries[first + position]
            try:
                check(format_, entry.key.name, frame)
            except PageError as error:
                log.warning("a page in %s: %s", tier.name, error)
                self._tally.corrupt(tier.name)
                self._tally.failed(path, "corrupt")
                if isinstance(tier, Host):
                    tier.ledger.drop(entry)
                else:
                    tier.discard(entry)
                good = position
                break
        if good and not load.deliver(chunk.start + first, [page_of(format_, frame) for frame in frames[:good]]):
            self._tally.failed(path, Outcome.CANCELLED, good)
            return 0
        return good

    def _drop(self, tier: Tier, chunk: _Chunk, load: Load) -> None:
        """The copy has completed: let go of its pages and of places it did not fill, and tell the load."""
        tier.ledger.unpin(chunk.entries)
        if self._host is not None:
            for entry in reversed(chunk.promoted):
                self._host.ledger.abort(entry)
        # Over the whole load: its copies run side by side, and it is their sum that the next one can expect.
        tier.reading.observe(load.delivered * self._device.format.frame_bytes, time.monotonic() - load.started)
        if load.settle():
            with self._lock:
                self._active.discard(load)

    def _expire(self) -> None:
        while not self._stop.wait(LOOK_S):
            now = time.monotonic()
            for load in tuple(self._active):
                if now > load.deadline and load.expire():
                    log.warning("a load of %d blocks was given up at its deadline", len(load.blocks))
