"""Slices of blocks copied and summed by numpy: what the kernels of `slices.cu` must equal, and what CPU workers use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from dynamoc.runtime.kv.transfer.checksums import Table
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.sums import WORD_BYTES
from dynamoc.runtime.kv.transfer.walk import Walk

Bytes = NDArray[np.uint8]


def copy_slices(walk: Walk, source: Bytes, sources: Indices, target: Bytes, destinations: Indices) -> None:
    """Copy the slice of block `sources[i]` of one pool onto that of block `destinations[i]` of another."""
    if not target.flags.writeable:
        raise ValueError("the target is read-only")
    for start, end in zip(sources.tolist(), destinations.tolist(), strict=True):
        from_ = _view(source, walk.source + start * walk.source_stride, walk, 1)
        np.copyto(_view(target, walk.target + end * walk.target_stride, walk, 2), from_)


def slice_of(walk: Walk, source: Bytes, block: int) -> Bytes:
    """The slice of one block as one run of bytes, in the order of the walk."""
    return np.ascontiguousarray(_view(source, walk.source + block * walk.source_stride, walk, 1)).reshape(-1)


def gather_slices(walk: Walk, source: Bytes, blocks: Indices) -> Bytes:
    """[blocks, bytes]: the slice of each block, in the order of the walk."""
    gathered: Bytes = _views(source, walk.source, walk.source_stride, walk, 1)[blocks]
    return gathered.reshape(blocks.size, walk.size)


def scatter_slices(walk: Walk, data: Bytes, target: Bytes, blocks: Indices) -> None:
    """Put what was gathered into the slices of these blocks."""
    slices = _views(target, walk.target, walk.target_stride, walk, 2)
    slices[blocks] = data.reshape(blocks.size, *slices.shape[1:])


def sum_slices(walk: Walk, source: Bytes, sources: Indices) -> Table:
    """The two sums of the slice of each block, rows of plain and weighted."""
    places = walk.canonical + _places(walk)
    sums = np.empty((sources.size, 2), np.uint64)
    for row, block in enumerate(sources.tolist()):
        values = slice_of(walk, source, block).astype(np.uint64)
        words = values << (np.uint64(8) * (places % np.uint64(WORD_BYTES)))
        sums[row] = words.sum(), (words * (places // np.uint64(WORD_BYTES) + np.uint64(1))).sum()
    return sums


def _places(walk: Walk) -> NDArray[np.uint64]:
    """Of every byte of the slice, from its first, in the canonical block."""
    places: NDArray[Any] = np.arange(walk.run_bytes, dtype=np.uint64)
    for step in walk.steps:
        places = np.add.outer(np.arange(step.times, dtype=np.uint64) * np.uint64(step.canonical), places)
    return places.reshape(-1)


def _views(data: Bytes, start: int, stride: int, walk: Walk, side: int) -> Bytes:
    """[block, outermost step, …, run]: the slices of all blocks where they lie; indexing refuses what is outside."""
    first = _view(data, start, walk, side)
    blocks = (data.size - start - _reach(walk, side)) // stride + 1
    return as_strided(first, (blocks, *first.shape), (stride, *first.strides))


def _view(data: Bytes, start: int, walk: Walk, side: int) -> Bytes:
    """[outermost step, …, run]: the slice where it lies."""
    steps = walk.steps[::-1]
    shape = (*(step.times for step in steps), walk.run_bytes)
    strides = (*(step[side] for step in steps), 1)
    if start < 0 or start + _reach(walk, side) > data.size:
        raise ValueError(f"a slice ends at byte {start + _reach(walk, side)} of a pool of {data.size}")
    return as_strided(data[start:], shape, strides)


def _reach(walk: Walk, side: int) -> int:
    """From the first byte of a slice to behind its last."""
    return sum((step.times - 1) * step[side] for step in walk.steps) + walk.run_bytes
