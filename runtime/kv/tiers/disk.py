"""G3: pages in segment files of a local disk, found again after a restart."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynamoc.runtime.kv.tiers.lane import Lane
from dynamoc.runtime.kv.tiers.ledger import Entry, Ledger, Skip
from dynamoc.runtime.kv.tiers.page import PageFormat, PageKey
from dynamoc.runtime.kv.tiers.rate import Endurance, Rate
from dynamoc.runtime.kv.tiers.segments import DiskFullError, Segments
from dynamoc.runtime.kv.tiers.store import Failure, Frame

THREADS = 8
WAITING_STORES = 64
KEEP_FREE = 0.02
"""Of the file system: the last part of it is left to others."""
ASSUMED_BYTES_PER_S = 1e9
LOWEST_FOLDERS = 64

log = logging.getLogger(__name__)


class Disk:
    """A `Store` in the first folder under `path` that no other process uses. OSError if it cannot be used at all."""

    name = "G3"
    latency_s = 0.0005
    least_read_bytes: int | None = 256 << 10
    is_up = True

    def __init__(self, path: Path, size: int, format_: PageFormat, endurance: Endurance | None = None) -> None:
        capacity = size // format_.frame_bytes
        self._format = format_
        self._segments = _claim(path / format_.digest.hex(), format_, capacity)
        self._endurance = endurance or Endurance(None)
        self._growing = threading.Lock()
        self.ledger = Ledger(self.name, capacity)
        found = [(key, slot) for key, slot in self._segments.scan() if slot < capacity]
        self._segments.wipe(self.ledger.restore(found))
        self.lane = Lane("disk", THREADS, WAITING_STORES)
        self.reading = Rate(ASSUMED_BYTES_PER_S)
        log.info(
            "%d pages found in %s; %s", len(self.ledger), self.folder, "O_DIRECT" if self.is_direct else "buffered"
        )

    @property
    def folder(self) -> Path:
        """Where the segments are."""
        return self._segments.folder

    @property
    def is_direct(self) -> bool:
        """Whether the file system lets us past its cache."""
        return self._segments.direct

    def begin(self, key: PageKey) -> Entry | Skip:
        """A place, if the budget allows for the write."""
        if not self.ledger.wants(key.name):
            return Skip.PRESENT
        if not self._endurance.allows(self._format.frame_bytes):
            return Skip.ENDURANCE
        entry = self.ledger.begin(key)
        if isinstance(entry, Entry):
            self._endurance.spend(self._format.frame_bytes)
        return entry

    def write(self, entries: Sequence[Entry], frames: Sequence[Frame]) -> list[Failure | Skip | None]:
        """Write frames, in as few writes as their places allow."""
        results: list[Failure | Skip | None] = [None] * len(entries)
        for part in self._runs(entries):
            failure = self._write_run([entries[p] for p in part], [frames[p] for p in part])
            for position in part:
                results[position] = failure
                if failure is None:
                    self.ledger.commit(entries[position])
                else:
                    self.ledger.abort(entries[position])
        return results

    def read(self, entries: Sequence[Entry], pieces: Sequence[memoryview], start: int = 0) -> list[Failure | None]:
        """Fill pieces of frames; whole ones in as few reads as the places allow."""
        results: list[Failure | None] = [None] * len(entries)
        for part in self._runs(entries):
            try:
                self._segments.read([entries[p].slot for p in part], [pieces[p] for p in part], start)
            except OSError as error:
                log.warning("pages could not be read from %s: %s", self.folder, error)
                for position in part:
                    results[position] = Failure("io", lost=True)
        return results

    def discard(self, entry: Entry) -> None:
        """Forget the page, and wipe its header as long as nobody else can have its place."""
        self._wipe(entry.slot)
        self.ledger.drop(entry)

    def refresh(self) -> None:
        """The folder is ours alone: nobody else stores anything there."""

    def close(self, timeout_s: float) -> None:
        """Finish what waits; the pages stay."""
        if self.lane.close(timeout_s):
            self._segments.close()

    # ---- inside -------------------------------------------------------------------------------------------

    def _runs(self, entries: Sequence[Entry]) -> Iterator[list[int]]:
        """Positions of entries whose places follow each other."""
        order = sorted(range(len(entries)), key=lambda position: entries[position].slot)
        for run in self._segments.runs([entries[position].slot for position in order]):
            yield [order[index] for index in run]

    def _write_run(self, entries: Sequence[Entry], frames: Sequence[Frame]) -> Failure | Skip | None:
        slots = [entry.slot for entry in entries]
        try:
            self._make_segment(slots[0])
            self._segments.write(slots, frames)
        except DiskFullError as error:
            log.warning("the disk tier stops growing: %s", error)
            return Skip.FULL
        except OSError as error:
            log.warning("pages could not be written to %s: %s", self.folder, error)
            return Failure("full" if error.errno == errno.ENOSPC else "io")
        return None

    def _make_segment(self, slot: int) -> None:
        with self._growing:
            if self._segments.has(slot):
                return
            first = slot - slot % self._segments.per_segment
            try:
                self._check_free()
                self._segments.grow(slot)
            except DiskFullError:
                self.ledger.shrink(min(first, self.ledger.capacity))
                raise

    def _check_free(self) -> None:
        state = os.statvfs(self.folder)
        wanted = self._segments.per_segment * self._format.frame_bytes
        if (state.f_bavail * state.f_frsize) - wanted < KEEP_FREE * state.f_blocks * state.f_frsize:
            raise DiskFullError(errno.ENOSPC, "the file system is almost full", str(self.folder))

    def _wipe(self, slot: int) -> None:
        with contextlib.suppress(OSError):  # a place that cannot be wiped keeps a header whose checksum is wrong
            self._segments.wipe([slot])


def _claim(path: Path, format_: PageFormat, capacity: int) -> Segments:
    """Workers of a node may share a path: each takes the first free folder, so a restart finds its own."""
    for number in range(LOWEST_FOLDERS):
        with contextlib.suppress(BlockingIOError):
            return Segments(path / str(number), format_, capacity)
    raise OSError(errno.EBUSY, f"{LOWEST_FOLDERS} processes use it already", str(path))
