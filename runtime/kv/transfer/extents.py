"""Adjacent blocks joined: a copy engine pays for every piece, so pairs are put in an order that makes pieces long."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.uint64]
SPARSE = 16
"""Places, of which so few are taken that sorting costs less than looking at all."""


class Extents(NamedTuple):
    """Ranges of blocks that lie one after another: each begins at the block `firsts[i]` and has `counts[i]` of them."""

    firsts: Places
    counts: Places


def in_order(indices: Places) -> NDArray[np.int64]:
    """What sorts them; pairs may be copied in any order, so both sides are sorted alike. No two may be equal."""
    if not indices.size:
        return np.empty(0, np.int64)
    places = indices.astype(np.int64)  # as numpy indexes: it converts others on the way, slowly
    places -= places.min()
    reach = int(places.max()) + 1
    if reach > SPARSE * indices.size:
        return np.argsort(places)
    # Many times as fast as sorting, which would keep the link waiting.
    place = np.full(reach, -1, np.int64)
    place[places] = np.arange(indices.size)
    return place[place >= 0]


def extents(indices: Places) -> Extents:
    """The ranges of blocks that follow each other in this order."""
    if not indices.size:
        return Extents(indices, indices)
    ends = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = np.concatenate(([0], ends))
    counts = np.diff(np.concatenate((starts, [indices.size])))
    return Extents(indices[starts], counts.astype(np.uint64))


def are_one(ordered: Places) -> bool:
    """Whether indices, sorted and none twice, follow each other."""
    return bool(ordered.size) and int(ordered[-1]) - int(ordered[0]) == ordered.size - 1
