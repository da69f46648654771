"""Adjacent blocks joined: a copy engine pays for every piece, so pairs are put in an order that makes pieces long."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.uint64]


class Extents(NamedTuple):
    """Ranges of blocks that lie one after another: each begins at the block `firsts[i]` and has `counts[i]` of them."""

    firsts: Places
    counts: Places


def in_order(indices: Places) -> NDArray[np.int64]:
    """What sorts them; pairs may be copied in any order, so both sides are sorted alike."""
    return np.argsort(indices, kind="stable")


def extents(indices: Places) -> Extents:
    """The ranges of blocks that follow each other in this order."""
    if not indices.size:
        return Extents(indices, indices)
    ends = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = np.concatenate(([0], ends))
    counts = np.diff(np.concatenate((starts, [indices.size])))
    return Extents(indices[starts], counts.astype(np.uint64))
