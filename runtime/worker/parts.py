"""What a prompt's KV is pushed in: parts, each verified at its destination while the next is under way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from dynamoc.runtime.kv.transfer.pairs import BlockPairs

MOST_PARTS = 8
"""Each further part costs both ends a message, and hides less of what is left to hide."""


@dataclass(frozen=True, slots=True)
class Part:
    """`layers` of destinations `first` to `first + len(pairs)`."""

    first: int
    pairs: BlockPairs
    layers: range

    def cut(self, size: int, part_bytes: int) -> list[Part]:
        """Blocks in order, `size` bytes in all, in parts as even as can be: see `parts_of`."""
        count = parts_of(size, part_bytes, len(self.pairs))
        bounds = [len(self.pairs) * turn // count for turn in range(count + 1)]
        return [self._between(start, end) for start, end in itertools.pairwise(bounds)]

    def _between(self, start: int, end: int) -> Part:
        pairs = BlockPairs(self.pairs.sources[start:end], self.pairs.destinations[start:end])
        return Part(self.first + start, pairs, self.layers)


def parts_of(size: int, part_bytes: int, blocks: int) -> int:
    """How many parts `size` bytes in so many blocks are written in, where `part_bytes` are worth one.

    A part of b bytes moves in b / R seconds, and is known to be right b / V + F later: the destination reads it at
    rate V, and F is what a message and the start of a check take. That is hidden if it is over when the next part has
    moved: b / V + F <= b / R, so a transport's `part_bytes` are F / (1 / R - 1 / V). What waits for a check at the end
    is then b / V + F and no longer size / V + F.
    """
    return max(1, min(MOST_PARTS, size // part_bytes, blocks))
