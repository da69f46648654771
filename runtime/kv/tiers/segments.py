"""Segment files: places for frames on disk, read and written past the page cache.

A segment is `[segment header][one header per place][one page per place]`. A page is written before its header, and the
header of a place is wiped before the place is used again: a process that dies between leaves an empty place. What a
power cut tears is found by the checksums. Segments are made under another name and renamed when they are complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynamoc.runtime.kv.tiers.page import ALIGN, PageError, PageFormat, PageKey, read_header

SEGMENT_BYTES = 1 << 30
LONGEST_IO = 4 << 20
"""Neighbouring frames are read and written together up to this size."""
_IOV_MAX = 1024
_MAGIC = b"DYNOSEG1"


class DiskFullError(OSError):
    """The file system has no room for another segment."""


class Segments:
    """Places for `capacity` frames in a folder of our own. Thread-safe as long as no place is used by two at once."""

    def __init__(self, folder: Path, format_: PageFormat, capacity: int) -> None:
        self.format = format_
        self.folder = folder
        self.page_bytes = format_.frame_bytes - ALIGN
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
            head = self._read_exactly(descriptor, ALIGN * (1 + self.per_segment), 0)
            if head is None or head[:ALIGN] != self._segment_header():
                os.close(descriptor)
                path.unlink()
                continue
            self._files[number] = descriptor
            for place in range(self.per_segment):
                header = head[ALIGN * (1 + place) : ALIGN * (2 + place)]
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
        size = ALIGN + self.per_segment * self.format.frame_bytes
        descriptor = self._open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._write_exactly(descriptor, [memoryview(_aligned(self._segment_header()))], 0)
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
        """Make consecutive places of one segment empty before their pages are overwritten."""
        descriptor, header, _ = self._where(slots[0])
        self._write_exactly(descriptor, [self._zeros] * len(slots), header)

    def write(self, slots: Sequence[int], frames: Sequence[memoryview]) -> None:
        """Fill consecutive places of one segment; OSError if not all of it was written."""
        descriptor, header, page = self._where(slots[0])
        self._write_exactly(descriptor, [frame[ALIGN:] for frame in frames], page)
        self._write_exactly(descriptor, [frame[:ALIGN] for frame in frames], header)

    def read(self, slots: Sequence[int], frames: Sequence[memoryview]) -> None:
        """Read consecutive places of one segment; OSError if not all of it is there."""
        descriptor, header, page = self._where(slots[0])
        for views, offset in (([f[:ALIGN] for f in frames], header), ([f[ALIGN:] for f in frames], page)):
            if os.preadv(descriptor, views, offset) != sum(len(view) for view in views):
                raise OSError(errno.EIO, "short read", str(self.folder))

    def runs(self, slots: Sequence[int]) -> Iterator[range]:
        """Cut a list of places into positions of consecutive ones within a segment, none longer than one I/O."""
        longest = max(1, min(LONGEST_IO // self.page_bytes, _IOV_MAX))
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

    def _where(self, slot: int) -> tuple[int, int, int]:
        """The file, and where in it the place's header and page begin."""
        number, place = divmod(slot, self.per_segment)
        return self._files[number], ALIGN * (1 + place), ALIGN * (1 + self.per_segment) + place * self.page_bytes

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

    def _read_exactly(self, descriptor: int, size: int, offset: int) -> bytes | None:
        buffer = mmap.mmap(-1, size)
        done = os.preadv(descriptor, [buffer], offset)
        return buffer[:] if done == size else None

    def _write_exactly(self, descriptor: int, views: Sequence[memoryview], offset: int) -> None:
        if os.pwritev(descriptor, views, offset) != sum(len(view) for view in views):
            raise OSError(errno.ENOSPC, "short write", str(self.folder))


def _aligned(data: bytes) -> mmap.mmap:
    buffer = mmap.mmap(-1, len(data))
    buffer[:] = data
    return buffer
