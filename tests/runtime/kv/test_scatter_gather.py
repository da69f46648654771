"""The kernel's own source, compiled for the CPU and run lane by lane, against numpy."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from dynamoc.runtime.kv.cuda.copier import CHUNK_BYTES
from dynamoc.runtime.kv.transfer.sums import Sums, sums_of

POISON = 0xA5


@pytest.fixture
def launch(kernels_on_host: ctypes.CDLL) -> ctypes._CFuncPtr:
    return kernels_on_host.launch


class Memory:
    """Random sources and a poisoned destination, each run at an address of its own alignment."""

    def __init__(self, count: int, size: int, shifts: tuple[int, int]) -> None:
        self.size = size
        pitch = math.ceil((size + 64) / 64) * 64
        self.source = _aligned(count * pitch)
        self.source[:] = np.random.default_rng(size).integers(0, 256, self.source.size, np.uint8)
        self.destination = _aligned(count * pitch)
        self.destination[:] = POISON
        order = np.random.default_rng(count).permutation(count)
        self.sources = np.arange(count) * pitch + shifts[0]
        self.destinations = order * pitch + shifts[1]
        self.sums = np.zeros((count, 2), np.uint64)

    def run(self, launch: ctypes._CFuncPtr, kernel: str, ctas: int = 3, threads: int = 64) -> None:
        chunks = max(1, math.ceil(self.size / CHUNK_BYTES))
        sides = [(self.source.ctypes.data, self.sources), (self.destination.ctypes.data, self.destinations)]
        tables = [(address + offsets).astype(np.uint64) for address, offsets in sides]
        addresses = [np.array([table.ctypes.data, 0, 1], np.uint64) for table in tables]
        failed = launch(
            kernel.encode(),
            ctypes.c_uint32(ctas),
            ctypes.c_uint32(threads),
            *(ctypes.c_void_p(runs.ctypes.data) for runs in addresses),
            ctypes.c_uint32(len(self.sources)),
            ctypes.c_uint64(self.size),
            ctypes.c_uint32(chunks),
            ctypes.c_void_p(self.sums.ctypes.data),
        )
        assert not failed

    def expected(self) -> np.ndarray:
        want = np.full_like(self.destination, POISON)
        for source, destination in zip(self.sources, self.destinations, strict=True):
            want[destination : destination + self.size] = self.source[source : source + self.size]
        return want

    def expected_sums(self) -> list[Sums]:
        return [sums_of(self.source[start : start + self.size]) for start in self.sources]


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


SIZES = [0, 1, 3, 4, 16, 24, 100, 511, 4096, 4100, 4112, 8192, 16384 + 8, 40960]
SHIFTS = [(0, 0), (16, 32), (8, 0), (0, 8), (4, 4), (12, 16), (1, 1), (0, 3), (2, 6)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shifts", SHIFTS, ids=str)
def test_every_byte_arrives_and_no_other_changes(launch: ctypes._CFuncPtr, size: int, shifts: tuple[int, int]) -> None:
    memory = Memory(5, size, shifts)

    memory.run(launch, "copy_and_sum_runs")

    assert np.array_equal(memory.destination, memory.expected())
    assert memory.sums.tolist() == [list(sums) for sums in memory.expected_sums()]


def test_alignments_may_differ_within_one_table(launch: ctypes._CFuncPtr) -> None:
    memory = Memory(7, 4096, (0, 0))
    shifts = np.array([0, 1, 4, 8, 16, 2, 12])
    memory.sources += shifts
    memory.destinations += shifts[::-1]

    memory.run(launch, "copy_runs", ctas=2, threads=96)

    assert np.array_equal(memory.destination, memory.expected())


@pytest.mark.parametrize(("ctas", "threads"), [(1, 32), (1, 512), (7, 160), (64, 64)])
def test_any_grid_covers_every_run(launch: ctypes._CFuncPtr, ctas: int, threads: int) -> None:
    memory = Memory(33, 9000, (0, 0))

    memory.run(launch, "copy_and_sum_runs", ctas, threads)

    assert np.array_equal(memory.destination, memory.expected())
    assert memory.sums.tolist() == [list(sums) for sums in memory.expected_sums()]


def test_summing_reads_only(launch: ctypes._CFuncPtr) -> None:
    memory = Memory(9, 12288, (0, 0))
    memory.run(launch, "sum_runs")

    assert (memory.destination == POISON).all()
    assert memory.sums.tolist() == [list(sums) for sums in memory.expected_sums()]


def test_runs_are_counted_from_a_base_in_strides(launch: ctypes._CFuncPtr) -> None:
    source = _aligned(64 * 1000)
    source[:] = np.random.default_rng(1).integers(0, 256, source.size, np.uint8)
    destination = np.full(32 * 500, POISON, np.uint8)
    indices = [np.array(order, np.uint64) for order in ([63, 0, 5], [1, 31, 7])]
    bases = (source.ctypes.data + 3, destination.ctypes.data)
    sides = [
        np.array([order.ctypes.data, base, stride], np.uint64)
        for order, base, stride in zip(indices, bases, (1000, 500), strict=True)
    ]

    words = [ctypes.c_void_p(side.ctypes.data) for side in sides]
    assert not launch(b"copy_runs", 1, 32, *words, 3, ctypes.c_uint64(496), 1, None)

    want = np.full_like(destination, POISON)
    for start, end in zip(*indices, strict=True):
        want[int(end) * 500 :][:496] = source[int(start) * 1000 + 3 :][:496]
    assert np.array_equal(destination, want)
