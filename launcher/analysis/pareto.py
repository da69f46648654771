"""Who is on the frontier, and who stands before those that are not."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Front:
    """Indices of the points on the frontier, in the order given; of every other, one on it that dominates it.

    A point with a value that is not a finite number is in neither.
    """

    members: tuple[int, ...]
    dominators: Mapping[int, int]


def frontier(points: Sequence[Sequence[float]]) -> Front:
    """Of points with two or three values, each the better the larger. Equals stand together.

    From the best first value down, a point is dominated by one that came before or by none.
    """
    equals: dict[tuple[float, float, float], list[int]] = {}
    for index, values in enumerate(points):
        if all(map(math.isfinite, values)):
            x, y, z = (*values, 0.0)[:3]
            equals.setdefault((x, y, z), []).append(index)
    stairs = _Stairs()
    members: list[int] = []
    dominators: dict[int, int] = {}
    for (_, y, z), indices in sorted(equals.items(), reverse=True):
        above = stairs.above(y, z)
        if above is None:
            members += indices
            stairs.add(y, z, indices[0])
        else:
            dominators |= dict.fromkeys(indices, above)
    return Front(tuple(sorted(members)), dominators)


class _Stairs:
    """Pairs none of which dominates another: ascending in the first value, so descending in the second."""

    def __init__(self) -> None:
        self._ys: list[float] = []
        self._zs: list[float] = []
        self._indices: list[int] = []

    def above(self, y: float, z: float) -> int | None:
        """A pair that is as good in both values."""
        at = bisect_left(self._ys, y)
        return self._indices[at] if at < len(self._ys) and self._zs[at] >= z else None

    def add(self, y: float, z: float, index: int) -> None:
        """A pair that no other is above; those below it go."""
        end = at = bisect_left(self._ys, y)
        if end < len(self._ys) and self._ys[end] == y:
            end += 1
        while at > 0 and self._zs[at - 1] <= z:
            at -= 1
        self._ys[at:end] = [y]
        self._zs[at:end] = [z]
        self._indices[at:end] = [index]
