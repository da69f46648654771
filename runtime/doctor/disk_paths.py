"""A folder of this host: runs written to one file and read from it, past the page cache where that can be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dynamoc.runtime.doctor.timing import RUN_BYTES, check_arrived, sample, shuffled
from dynamoc.runtime.kv.memory import huge_memory
from dynamoc.runtime.kv.transfer.measured import Missing, Place, Sample, Way

Call = Callable[[int, memoryview, int], int]
ROUNDS = 3
TO_DISK = (Place.HOST, Place.DISK, Way.FILE)
FROM_DISK = (Place.DISK, Place.HOST, Way.FILE)


def measure_disk(folder: Path, total: int) -> Iterator[Sample | Missing]:
    """Writes and reads of shuffled runs by one thread."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
            yield from _measure(Path(place) / "runs", total)
    except OSError as error:
        yield Missing(*TO_DISK, str(error))
        yield Missing(*FROM_DISK, str(error))


def is_direct(folder: Path) -> bool:
    """Whether files there can be read and written past the page cache."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            os.close(os.open(file.name, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


def _measure(path: Path, total: int) -> Iterator[Sample]:
    flags = os.O_RDWR | os.O_CREAT | (os.O_DIRECT if is_direct(path.parent) else 0)
    file = os.open(path, flags, 0o600)
    out, back = (memoryview(huge_memory(total))[:total] for _ in range(2))
    np.frombuffer(out, np.uint64)[:] = np.random.default_rng(1).integers(0, 2**64, total // 8, np.uint64)
    try:
        os.posix_fallocate(file, 0, total)
        for run_bytes in RUN_BYTES:
            for between, memory, call in ((TO_DISK, out, os.pwrite), (FROM_DISK, back, _pread)):
                yield sample(between, run_bytes, total, _pass(file, memory, call, run_bytes), ROUNDS)
            check_arrived(FROM_DISK, np.frombuffer(back, np.uint8), np.frombuffer(out, np.uint8))
            np.frombuffer(back, np.uint8)[:] = 0
    finally:
        os.close(file)


def _pread(file: int, into: memoryview, offset: int) -> int:
    return os.preadv(file, [into], offset)


def _pass(file: int, memory: memoryview, call: Call, run_bytes: int) -> Callable[[], None]:
    """Every run of the file once, in a shuffled order; what was written is on the disk at the end."""
    order = shuffled(len(memory) // run_bytes)[0].tolist()

    def once() -> None:
        for index in order:
            start = index * run_bytes
            if call(file, memory[start : start + run_bytes], start) != run_bytes:
                raise OSError(f"a run of {run_bytes} B was cut short")
        if call is os.pwrite:
            os.fdatasync(file)

    return once
