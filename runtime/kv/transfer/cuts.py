"""What of every block a write carries: one run of its bytes, or the heads that two ranks have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dynamoc.runtime.kv.transfer.checksums import digest, units_of
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.rows import Rows, in_place, pick, put
from dynamoc.runtime.kv.transfer.slices import Bytes, gather_slices, scatter_slices
from dynamoc.runtime.kv.transfer.walk import Walk


class Cut(Protocol):
    """The same bytes of every block of one pool in host memory, as a row a block."""

    @property
    def size(self) -> int:
        """Bytes of a row."""
        ...

    def pick(self, blocks: Indices) -> Rows:
        """The rows of these blocks one after another; a view where they are so already."""
        ...

    def put(self, blocks: Indices, data: Rows) -> None:
        """Make `data`, rows one after another in words of any width, the content of these blocks."""
        ...

    def in_place(self, blocks: Indices) -> Rows | None:
        """The rows of these blocks themselves, if they are one run of bytes."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RunCut:
    """All heads: one run of bytes in every block."""

    rows: Rows

    @property
    def size(self) -> int:
        """Bytes of a row."""
        size: int = self.rows.shape[1] * self.rows.itemsize
        return size

    def pick(self, blocks: Indices) -> Rows:
        """As numpy takes them."""
        return pick(self.rows, blocks)

    def put(self, blocks: Indices, data: Rows) -> None:
        """As numpy puts them."""
        put(self.rows, blocks, data.view(self.rows.dtype))

    def in_place(self, blocks: Indices) -> Rows | None:
        """Where blocks follow each other and nothing of them is left out."""
        return in_place(self.rows, blocks)


@dataclass(frozen=True, slots=True, eq=False)
class HeadCut:
    """Some heads: picked from the walk's source, put into its target, of which `data` is the one that is here."""

    walk: Walk
    data: Bytes

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return self.walk.size

    def pick(self, blocks: Indices) -> Rows:
        """In the order of the walk."""
        return gather_slices(self.walk, self.data, blocks)

    def put(self, blocks: Indices, data: Rows) -> None:
        """What came in the order of the walk."""
        scatter_slices(self.walk, data.view(np.uint8).reshape(blocks.size, -1), self.data, blocks)

    def in_place(self, blocks: Indices) -> Rows | None:
        """Never: other heads are between them."""
        del blocks
        return None


def mismatches(cut: Cut, blocks: Indices, checksums: bytes) -> Indices:
    """The blocks of the units whose bytes are not what was sent; all blocks, if there is not one checksum a unit.

    Made for a thread: copying and hashing release the interpreter's lock.
    """
    units = list(units_of(blocks.size, cut.size))
    if len(checksums) != 8 * len(units):
        return blocks
    expected = np.frombuffer(checksums, "<u8").tolist()
    wrong = [blocks[u] for u, want in zip(units, expected, strict=True) if digest(cut.pick(blocks[u])) != want]
    return np.concatenate(wrong) if wrong else blocks[:0]
