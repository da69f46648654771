"""Which blocks go where: two index arrays side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def indices_of(blocks: Sequence[int] | Indices) -> Indices:
    """Block numbers as an array."""
    return np.asarray(blocks, np.int64)


def count_repeats(blocks: Indices, count: int) -> int:
    """How many name a block that another one names too, of a pool of `count`. Marking takes a hundredth of sorting."""
    named = np.zeros(count, np.bool_)
    named[blocks] = True
    return blocks.size - int(np.count_nonzero(named))


@dataclass(frozen=True, slots=True, eq=False)
class BlockPairs:
    """Copy block `sources[i]` of my pool onto block `destinations[i]` of the peer's."""

    sources: Indices
    destinations: Indices

    def __post_init__(self) -> None:
        if self.sources.shape != self.destinations.shape or self.sources.ndim != 1:
            raise ValueError(f"{self.sources.size} sources for {self.destinations.size} destinations")

    @classmethod
    def of(cls, sources: Sequence[int] | Indices, destinations: Sequence[int] | Indices) -> BlockPairs:
        """From any sequences of block numbers; ValueError if they differ in length."""
        return cls(indices_of(sources), indices_of(destinations))

    def __len__(self) -> int:
        return self.sources.size

    def fault(self, sources: int, destinations: int) -> str:
        """Why these pairs cannot be copied between pools of so many blocks; empty if they can."""
        for what, blocks, pool, count in (
            ("source", self.sources, "my pool", sources),
            ("destination", self.destinations, "a pool", destinations),
        ):
            if blocks.size and blocks.view(np.uint64).max() >= count:  # a negative one is the largest of all
                outside = blocks[(blocks < 0) | (blocks >= count)]
                return f"{what} block {outside[0]} is outside {pool} of {count} blocks"
        twice = count_repeats(self.destinations, destinations)
        return f"{twice} of {len(self)} destination blocks are named twice" if twice else ""
