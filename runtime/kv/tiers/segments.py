"""Segment files: places for frames on disk, read and written past the page cache.

A segment is `[segment header][one frame per place]`. Neighbouring frames cross in one call, headers and all: to write
the headers apart cost a tenth of a disk's speed, to wipe them before another tenth. So whoever is killed in the middle
of a write leaves a torn page, as a power cut does: its checksums tell when it is read. Segments are made under another
name and renamed when they are complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dynamoc.runtime.kv.tiers.page import ALIGN, PageError, PageFormat, PageKey, read_header
from dynamoc.runtime.kv.tiers.store import Frame

SEGMENT_BYTES = 1 << 30
LONGEST_IO = 4 << 20
"""Neighbouring frames are read and written together up to this size."""
SCAN_BYTES = 64 << 10
"""Headers this close together are read as one, with the pages between them."""
SCAN_THREADS = 8
_IOV_MAX = 1024
_MOST_PIECES = 2
"""Of a frame."""
_MAGIC = b"DYNOSEG2"


class DiskFullError(OSError):
    """The file system has no room for another segment."""


class Segments:
    """Places for `capacity` frames in a folder of our own. Thread-safe as long as no place is used by two at once."""

    def __init__(self, folder: Path, format_: PageFormat, capacity: int) -> None:
        self.format = format_
        self.folder = folder
        self.per_segment = max(1, min(capacity, (SEGMENT_BYTES - ALIGN) // format_.frame_bytes))
        self.direct = True
        self._zeros = memoryview(_aligned(bytes(ALIGN)))
        self._files: dict[int, int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise

    def scan(self) -> Iterator[tuple[PageKey, int]]:
        """Open the segments that are there; every place that has a header, with what it says."""
        for leftover in self.folder.glob("*.new"):
            leftover.unlink()
        for path in sorted(self.folder.glob("*.seg")):
            number = int(path.stem)
            descriptor = self._open(path, os.O_RDWR)
            whole = os.fstat(descriptor).st_size == self._segment_bytes
            if not whole or self._read(descriptor, ALIGN, 0) != self._segment_header():
                os.close(descriptor)
                path.unlink()
                continue
            self._files[number] = descriptor
            for place, header in enumerate(self._headers(descriptor)):
                with contextlib.suppress(PageError):  # a place that is empty, or was being filled
                    key, heads, _ = read_header(self.format, header)
                    if heads == self.format.heads:
                        yield key, number * self.per_segment + place

    def has(self, slot: int) -> bool:
        """Whether the place is in a segment that exists."""
        return slot // self.per_segment in self._files

    def grow(self, slot: int) -> None:
        """Make the segment of a place; DiskFullError if there is no room."""
        number = slot // self.per_segment
        path, new = self.folder / f"{number}.seg", self.folder / f"{number}.new"
        size = self._segment_bytes
        descriptor = self._open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._write_exactly(descriptor, 0, [memoryview(_aligned(self._segment_header()))])
            os.fsync(descriptor)
            new.rename(path)
        except OSError as error:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(error.errno, f"no room for another segment of {size} bytes", str(path)) from error
            raise
        self._files[number] = descriptor

    def wipe(self, slots: Sequence[int]) -> None:
        """Make places empty."""
        for slot in slots:
            self._write_exactly(*self._where(slot), [self._zeros])

    def write(self, slots: Sequence[int], frames: Sequence[Frame]) -> None:
        """Fill consecutive places of one segment; OSError if not all of it was written."""
        self._write_exactly(*self._where(slots[0]), [piece for frame in frames for piece in frame])

    def read(self, slots: Sequence[int], pieces: Sequence[memoryview], start: int = 0) -> None:
        """Read consecutive places of one segment, or a piece of each from byte `start` of its frame on.

        OSError if not all of it is there.
        """
        descriptor, offset = self._where(slots[0])
        whole = len(pieces[0]) == self.format.frame_bytes
        for views in [pieces] if whole else [[piece] for piece in pieces]:
            if os.preadv(descriptor, views, offset + start) != sum(map(len, views)):
                raise OSError(errno.EIO, "short read", str(self.folder))
            offset += self.format.frame_bytes

    def runs(self, slots: Sequence[int]) -> Iterator[range]:
        """Cut a list of places into positions of consecutive ones within a segment, none longer than one I/O."""
        longest = max(1, min(LONGEST_IO // (self.format.frame_bytes - ALIGN), _IOV_MAX // _MOST_PIECES))
        start = 0
        for end in range(1, len(slots) + 1):
            follows = end < len(slots) and slots[end] == slots[end - 1] + 1 and slots[end] % self.per_segment
            if not follows or end - start == longest:
                yield range(start, end)
                start = end

    def close(self) -> None:
        """Let go of the folder."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        os.close(self._lock)

    # ---- inside -------------------------------------------------------------------------------------------

    @property
    def _segment_bytes(self) -> int:
        return ALIGN + self.per_segment * self.format.frame_bytes

    def _where(self, slot: int) -> tuple[int, int]:
        """The file, and where in it the place begins."""
        number, place = divmod(slot, self.per_segment)
        return self._files[number], ALIGN + place * self.format.frame_bytes

    def _headers(self, descriptor: int) -> Iterator[bytes]:
        """Those of all places of a segment, in order; empty where it cannot be read."""
        frame = self.format.frame_bytes
        together = max(1, SCAN_BYTES // frame)

        def read(first: int) -> list[bytes]:
            count = min(together, self.per_segment - first)
            data = self._read(descriptor, (count - 1) * frame + ALIGN, ALIGN + first * frame)
            return [data[place * frame : place * frame + ALIGN] for place in range(count)]

        with ThreadPoolExecutor(SCAN_THREADS, thread_name_prefix="kv-scan") as readers:
            for headers in readers.map(read, range(0, self.per_segment, together)):
                yield from headers

    def _segment_header(self) -> bytes:
        facts = f"{self.per_segment} {self.format.frame_bytes} {self.format.digest.hex()}".encode()
        return (_MAGIC + facts).ljust(ALIGN, b"\0")

    def _open(self, path: Path, flags: int) -> int:
        flags |= os.O_CLOEXEC
        if self.direct:
            try:
                return os.open(path, flags | os.O_DIRECT, 0o600)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.direct = False  # a file system without it, such as tmpfs: told in the tier's metrics
        return os.open(path, flags, 0o600)

    def _read(self, descriptor: int, size: int, offset: int) -> bytes:
        """Less than `size` bytes where the file ends."""
        buffer = mmap.mmap(-1, size)
        return buffer[: os.preadv(descriptor, [buffer], offset)]

    def _write_exactly(self, descriptor: int, offset: int, views: Sequence[memoryview]) -> None:
        if os.pwritev(descriptor, views, offset) != sum(len(view) for view in views):
            raise OSError(errno.ENOSPC, "short write", str(self.folder))


def _aligned(data: bytes) -> mmap.mmap:
    buffer = mmap.mmap(-1, len(data))
    buffer[:] = data
    return buffer
