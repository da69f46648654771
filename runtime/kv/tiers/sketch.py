"""How often was a page asked for? A count-min sketch with aging (TinyLFU): small, and it forgets."""

from __future__ import annotations

import struct

_ROWS = struct.Struct("<4I")
MAX_COUNT = 15


class FrequencySketch:
    """Counts of names, up to `MAX_COUNT`; never too low but for aging. All are halved after `10 × capacity` adds."""

    def __init__(self, capacity: int) -> None:
        self._width = 1 << max(6, (2 * capacity - 1).bit_length())
        self._counts = [bytearray(self._width) for _ in range(4)]
        self._limit = 10 * max(capacity, 1)
        self._added = 0

    def add(self, name: bytes) -> None:
        """It was asked for once more."""
        for row, index in zip(self._counts, self._places(name), strict=True):
            if row[index] < MAX_COUNT:
                row[index] += 1
        self._added += 1
        if self._added >= self._limit:
            self._halve()

    def count(self, name: bytes) -> int:
        """How often it was asked for lately, about."""
        return min(row[index] for row, index in zip(self._counts, self._places(name), strict=True))

    def _places(self, name: bytes) -> list[int]:
        # Names are cryptographic hashes: four parts of one are as good as four hash functions.
        return [part & (self._width - 1) for part in _ROWS.unpack_from(name)]

    def _halve(self) -> None:
        table = bytes(count // 2 for count in range(256))
        self._counts = [row.translate(table) for row in self._counts]
        self._added //= 2
