"""The ceiling of a disk: a file of its own, large pieces, O_DIRECT, contents that are never looked at.

Its memory is in huge pages, and as much as there are bytes, like a pool's: a virtual disk is copied by a processor,
which copies 2 MiB that never leave its cache up to two fifths faster. What that gives is measured too, for whoever
reads: `read_again` has a few buffers, as tools that measure disks do.
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
TRIAL_BYTES = 512 << 20
"""At most, of each trial."""


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
        self._write_in(SHAPES[-1], self.size)  # the first time allocates
        self.shapes: dict[str, Shape] = {}
        """The best, of each way that was used."""

    def write(self) -> Spent:
        """All of it, in the best of the shapes."""
        return self._in_best_shape("write", self._write_in)

    def read(self) -> Spent:
        """The same, each piece to a place of its own."""
        return self._in_best_shape("read", self._read_in)

    def read_again(self) -> Spent:
        """The same, into a buffer for each thread."""
        return self._in_best_shape("read again", self._read_again_in)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)

    def _in_best_shape(self, way: str, run: Callable[[Shape, int], Spent]) -> Spent:
        """By the median of some trials, taken in turns."""
        if way not in self.shapes:
            trials: dict[Shape, list[float]] = {shape: [] for shape in SHAPES}
            size = min(self.size, TRIAL_BYTES)
            for _ in range(TRIALS):
                for shape, seconds in trials.items():
                    seconds.append(run(shape, size).seconds)
            self.shapes[way] = min(SHAPES, key=lambda shape: statistics.median(trials[shape]))
        return run(self.shapes[way], self.size)

    def _write_in(self, shape: Shape, size: int) -> Spent:
        piece, threads = shape

        def move(number: int, _thread: int) -> None:
            at = number * piece
            assert os.pwrite(self.descriptor, self._source[at : at + piece], at) == piece

        return in_threads(size // piece, threads, move)

    def _read_in(self, shape: Shape, size: int) -> Spent:
        piece, threads = shape

        def move(number: int, _thread: int) -> None:
            at = number * piece
            assert os.preadv(self.descriptor, [self._source[at : at + piece]], at) == piece

        return in_threads(size // piece, threads, move)

    def _read_again_in(self, shape: Shape, size: int) -> Spent:
        piece, threads = shape
        views = [buffer[:piece] for buffer in self._buffers]

        def move(number: int, thread: int) -> None:
            assert os.preadv(self.descriptor, [views[thread]], number * piece) == piece

        return in_threads(size // piece, threads, move)
