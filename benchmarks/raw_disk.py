"""The ceiling of a disk: a file of its own, large pieces, O_DIRECT, contents that are never looked at.

Its memory is in huge pages, and written and read as ours is: what is written comes from as much memory as there are
bytes, for a virtual disk is copied by a processor, and reads 2 MiB that never leave its cache a quarter faster than
the memory of a pool; what is read goes into buffers that are used again.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import Spent, in_threads

from dynamoc.runtime.kv.memory import huge_memory

Shape = tuple[int, int]
SHAPES: tuple[Shape, ...] = tuple((piece << 20, threads) for piece in (1, 4, 16) for threads in (2, 4, 8))
"""Bytes of an I/O and threads among which the disk's ceiling is looked for."""
TRIALS = 3


class RawDisk:
    """`size` bytes of a file, or a little less: whole pieces of every shape. Shapes are chosen when first needed."""

    def __init__(self, path: Path, size: int) -> None:
        largest, threads = (max(values) for values in zip(*SHAPES, strict=True))
        self.size = size // largest * largest
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.posix_fallocate(self.descriptor, 0, self.size)
        self._source = memoryview(huge_memory(self.size))
        words = np.frombuffer(self._source, np.uint64)[: self.size // 8]
        words[:] = np.arange(words.size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._buffers = [memoryview(huge_memory(largest)) for _ in range(threads)]
        for buffer in self._buffers:
            buffer[:] = self._source[:largest]
        self._write_in(SHAPES[-1])  # the first time allocates
        self.write_shape: Shape | None = None
        self.read_shape: Shape | None = None

    def write(self) -> Spent:
        """All of it, in the best of the shapes."""
        self.write_shape = self.write_shape or self._best(self._write_in)
        return self._write_in(self.write_shape)

    def read(self) -> Spent:
        """All of it, in the best of the shapes."""
        self.read_shape = self.read_shape or self._best(self._read_in)
        return self._read_in(self.read_shape)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)

    def _best(self, run: Callable[[Shape], Spent]) -> Shape:
        """By the median of some trials, taken in turns."""
        trials: dict[Shape, list[float]] = {shape: [] for shape in SHAPES}
        for _ in range(TRIALS):
            for shape, seconds in trials.items():
                seconds.append(run(shape).seconds)
        return min(SHAPES, key=lambda shape: statistics.median(trials[shape]))

    def _write_in(self, shape: Shape) -> Spent:
        piece, threads = shape

        def move(number: int, _thread: int) -> None:
            at = number * piece
            assert os.pwrite(self.descriptor, self._source[at : at + piece], at) == piece

        return in_threads(self.size // piece, threads, move)

    def _read_in(self, shape: Shape) -> Spent:
        piece, threads = shape
        views = [buffer[:piece] for buffer in self._buffers]

        def move(number: int, thread: int) -> None:
            assert os.preadv(self.descriptor, [views[thread]], number * piece) == piece

        return in_threads(self.size // piece, threads, move)
