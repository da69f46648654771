"""What both ends compute over the blocks of a transfer: over the source as it is sent, over the destination's memory.

Which one a transport uses is fixed: the receiver checks every transfer before a token depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
import xxhash
from numpy.typing import NDArray

from dynamoc.runtime.kv.transfer.rows import Rows

UNIT_BYTES = 512 * 1024
LONG_ROW_BYTES = 64 * 1024
"""A row from which on Python between one row and the next does not matter."""
Table = NDArray[np.uint64]


class Checksum(StrEnum):
    """The named definitions.

    `XXH3`: one xxh3-64 for every unit: one pair of `LONG_ROW_BYTES` or more, else all that fit `UNIT_BYTES`.
    `SUMS`: for every pair, the two sums of `sums.py`; a kernel takes them on the way, and they add up over any cut.
    """

    XXH3 = "xxh3-64"
    SUMS = "sums-2x64"

    def unit_rows(self, row_bytes: int) -> int:
        """How many pairs share one."""
        return unit_rows(row_bytes) if self is Checksum.XXH3 else 1

    def room(self, count: int, row_bytes: int) -> Table:
        """For those of `count` pairs: a row a unit."""
        if self is Checksum.SUMS:
            return np.zeros((count, 2), np.uint64)
        return np.zeros(-(-count // unit_rows(row_bytes)), np.uint64)


def units_of(count: int, row_bytes: int) -> Iterator[slice]:
    """The units of `count` pairs, in order."""
    step = unit_rows(row_bytes)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def unit_rows(row_bytes: int) -> int:
    """How many pairs share one xxh3-64."""
    return 1 if row_bytes >= LONG_ROW_BYTES else UNIT_BYTES // row_bytes


def digest(data: Rows) -> int:
    """Of the bytes of one unit."""
    return xxhash.xxh3_64_intdigest(data.data)
