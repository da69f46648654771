"""Consecutive pages of one tier on their way up: read, checked and delivered, some layers of all of them at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from dynamoc.runtime.kv.tiers.device import Device
from dynamoc.runtime.kv.tiers.frames import Staging, StagingTimeoutError
from dynamoc.runtime.kv.tiers.host import Host
from dynamoc.runtime.kv.tiers.ledger import Entry
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import ALIGN, Digests, PageError, check_digests, digests_of, page_of, sums_of
from dynamoc.runtime.kv.tiers.store import Store
from dynamoc.runtime.kv.tiers.tally import Outcome, Path, Tally

log = logging.getLogger(__name__)

Tier = Host | Store


@dataclass(slots=True)
class Chunk:
    """Pinned pages, from position `start` of the load; `promoted` are their places in G2.

    They come `pieces` after `pieces` of layers. `good`: so many leading ones were right so far.
    """

    start: int
    entries: list[Entry]
    promoted: list[Entry]
    pieces: Sequence[range]
    sums: list[Sequence[int]] = field(default_factory=list)
    good: int = 0

    def __post_init__(self) -> None:
        self.good = len(self.entries)
        self.sums = [()] * self.good


def load_path(tier: Tier, via_host: bool) -> Path:
    """How pages come back: stores pass through host memory, or through staging buffers where there is none for them."""
    via = {"G2": "copy", "G3": "file", "G4": "object"}[tier.name]
    return Path(via if via_host else f"bounce+{via}", tier.name, "G1", "onboard")


class Lifter:
    """Copies chunks. A page that is not right is never delivered, nor is anything after it."""

    def __init__(self, device: Device, host: Host | None, staging: Staging, tally: Tally) -> None:
        self._device = device
        self._host = host
        self._staging = staging
        self._tally = tally

    def lift(self, tier: Tier, chunk: Chunk, load: Load) -> Generator[None]:
        """Copy a chunk for a load. It begins with the second step, and pauses before each further piece.

        However it ends, and wherever, its pages are unpinned then and the places in G2 it did not fill are given back.
        """
        whole = False
        path = load_path(tier, via_host=isinstance(tier, Host) or bool(chunk.promoted))
        try:
            yield
            with self._tally.copying(path) as arrived:
                for layers in chunk.pieces:
                    if layers.start:
                        yield
                    self._piece(tier, chunk, layers, load, path)
                    if chunk.good < len(chunk.entries):
                        load.fail(chunk.start + chunk.good)
                    if not chunk.good:
                        break
                whole = True
                arrived.extend([self._device.format.page_bytes] * chunk.good)
        finally:
            if not whole:
                load.fail(chunk.start)
            self._let_go(tier, chunk, chunk.good if whole else 0)

    def _piece(self, tier: Tier, chunk: Chunk, layers: range, load: Load, path: Path) -> None:
        if not load.wants(chunk.start):
            self._tally.failed(path, Outcome.CANCELLED, chunk.good)
            chunk.good = 0
        elif isinstance(tier, Host):
            frames = [tier.frame(entry) for entry in chunk.entries[: chunk.good]]
            chunk.good = self._deliver(tier, chunk, 0, frames, layers, load, path)
        elif chunk.promoted and self._host is not None:
            frames = [self._host.frame(entry) for entry in chunk.promoted[: chunk.good]]
            chunk.good = self._read(tier, chunk, 0, frames, layers, load, path)
        else:
            chunk.good = self._bounce(tier, chunk, layers, load, path)

    def _bounce(self, store: Store, chunk: Chunk, layers: range, load: Load, path: Path) -> int:
        """Through staging buffers, as many at a time as can be had."""
        done = 0
        while done < chunk.good and load.wants(chunk.start + done):
            try:
                frames = self._staging.borrow(chunk.good - done, max(0.0, load.deadline - time.monotonic()))
            except StagingTimeoutError:
                self._tally.failed(path, "staging", chunk.good - done)
                break
            try:
                got = self._read(store, chunk, done, frames, layers, load, path)
            finally:
                self._staging.give_back(frames)
            done += got
            if got < len(frames):
                break
        return done

    def _read(
        self,
        store: Store,
        chunk: Chunk,
        first: int,
        frames: Sequence[memoryview],
        layers: range,
        load: Load,
        path: Path,
    ) -> int:
        """Read these layers, with the first of them the header, and deliver; how many leading pages are there."""
        entries = chunk.entries[first : first + len(frames)]
        start, end = self._bytes_of(layers)
        good = len(entries)
        failures = store.read(entries, [frame[start:end] for frame in frames], start)
        for position, failure in reversed(list(enumerate(failures))):
            if failure is not None:
                good = position
                self._tally.failed(path, failure.reason)
                if failure.reason == "corrupt":
                    self._tally.corrupt(store.name)
                if failure.lost:
                    store.discard(entries[position])
        return self._deliver(store, chunk, first, frames[:good], layers, load, path)

    def _deliver(
        self, tier: Tier, chunk: Chunk, first: int, frames: Sequence[memoryview], layers: range, load: Load, path: Path
    ) -> int:
        """Check layers of frames and copy them to the device; how many leading ones are right and there.

        A device that takes checksums itself takes them where the pages arrived, before anybody hears that they have.
        """
        format_, span = self._device.format, self._device.format.span(layers)
        takes_digests = self._device.takes_digests

        def sound(position: int, digests: Digests | None) -> bool:
            try:
                self._check(chunk, first + position, frames[position], layers, digests)
            except PageError as error:
                self._put_away(tier, chunk.entries[first + position], error, path)
                return False
            return True

        def leading(found: Sequence[Digests | None]) -> int:
            return next((place for place, digests in enumerate(found) if not sound(place, digests)), len(found))

        def right(blocks: Sequence[int]) -> int:
            return leading(self._device.digests(blocks, layers))

        good = len(frames) if takes_digests else leading([None] * len(frames))
        pages = [page_of(format_, frame)[span.start : span.end] for frame in frames[:good]]
        if not good:
            return 0
        delivered = load.deliver(chunk.start + first, pages, layers, right if takes_digests else None)
        if delivered is None:
            self._tally.failed(path, Outcome.CANCELLED, good)
        return delivered or 0

    def _check(self, chunk: Chunk, position: int, frame: memoryview, layers: range, digests: Digests | None) -> None:
        format_ = self._device.format
        if not layers.start:
            chunk.sums[position] = sums_of(format_, chunk.entries[position].key.name, frame)
        digests = digests or digests_of(format_, layers, page_of(format_, frame))
        check_digests(format_, chunk.sums[position], layers, digests)

    def _put_away(self, tier: Tier, entry: Entry, error: PageError, path: Path) -> None:
        """What is wrong is never read again."""
        log.warning("a page in %s: %s", tier.name, str(error))
        self._tally.corrupt(tier.name)
        self._tally.failed(path, "corrupt")
        if isinstance(tier, Host):
            tier.ledger.drop(entry)
        else:
            tier.discard(entry)

    def _bytes_of(self, layers: range) -> tuple[int, int]:
        """Where layers are in a frame: the first with the header, the last with what fills the frame up."""
        format_ = self._device.format
        span = format_.span(layers)
        start = ALIGN + span.start if layers.start else 0
        return start, format_.frame_bytes if layers.stop == format_.layers else ALIGN + span.end

    def _let_go(self, tier: Tier, chunk: Chunk, whole: int) -> None:
        tier.ledger.unpin(chunk.entries)
        if self._host is not None:
            for entry in chunk.promoted[:whole]:
                self._host.ledger.commit(entry)
            for entry in reversed(chunk.promoted[whole:]):
                self._host.ledger.abort(entry)
