"""Blocks of a host pool as rows of a matrix, picked and put by numpy: no Python between one block and the next."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.layout import Span
from dynamoc.runtime.kv.transfer.pairs import Indices

Rows = NDArray[np.unsignedinteger[Any]]
"""[blocks, words]: the widest words that fit. A view: what is put there is in the pool."""


def rows_of(data: memoryview, block_bytes: int, span: Span) -> Rows:
    """The bytes `span` of every block in `data`."""
    word = math.gcd(8, block_bytes, span.start, span.size)
    words = np.frombuffer(data, f"u{word}").reshape(-1, block_bytes // word)
    return words[:, span.start // word : span.end // word]


def pick(rows: Rows, blocks: Indices) -> Rows:
    """These rows one after another; a view where they are so already."""
    if blocks.size == 1:
        one: Rows = rows[blocks[0]]
        return one
    if _are_adjacent(blocks):
        return np.ascontiguousarray(rows[blocks[0] : blocks[-1] + 1])
    return rows[blocks]


def put(rows: Rows, blocks: Indices, data: Rows) -> None:
    """Make `data` the content of these rows."""
    if blocks.size == 1:
        rows[blocks[0]] = data
    elif _are_adjacent(blocks):
        rows[blocks[0] : blocks[-1] + 1] = data
    else:
        rows[blocks] = data


def in_place(rows: Rows, blocks: Indices) -> Rows | None:
    """These rows themselves, if they are one run of bytes."""
    run = rows[blocks[0] : blocks[-1] + 1] if _are_adjacent(blocks) else None
    return run if run is not None and run.flags.c_contiguous else None


def bytes_of(data: Rows) -> memoryview:
    """Rows that are one run, as bytes."""
    return data.data.cast("B")


def _are_adjacent(blocks: Indices) -> bool:
    return blocks.size > 0 and bool(blocks[-1] - blocks[0] == blocks.size - 1 and (np.diff(blocks) == 1).all())
