"""Copies between blocks and pages as addresses: each block, or some layers of it, is one run of bytes at both ends."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.tiers.page import PageFormat

Addresses = NDArray[np.uint64]


class Pieces(NamedTuple):
    """Runs of `size` bytes, from address to address."""

    to: Addresses
    from_: Addresses
    size: int

    def parts(self, most_bytes: int) -> Iterator[Pieces]:
        """The same, so many bytes at a time, or one piece if that is more."""
        step = max(1, most_bytes // self.size)
        for start in range(0, self.to.size, step):
            part = slice(start, start + step)
            yield Pieces(self.to[part], self.from_[part], self.size)


def down(format_: PageFormat, pool: int, blocks: Sequence[int], pages: Sequence[memoryview]) -> Pieces:
    """Blocks of the pool at an address, each to a page."""
    return Pieces(_addresses(pages), _places(format_, pool, blocks), format_.page_bytes)


def up(
    format_: PageFormat, pool: int, blocks: Sequence[int], pages: Sequence[memoryview], layers: range | None
) -> Pieces:
    """Pages, or what they hold of these layers, each to a block."""
    span = format_.span(layers or range(format_.layers))
    return Pieces(_places(format_, pool + span.start, blocks), _addresses(pages), span.size)


def _places(format_: PageFormat, base: int, blocks: Sequence[int]) -> Addresses:
    return np.array(blocks, np.uint64) * np.uint64(format_.page_bytes) + np.uint64(base)


def _addresses(pages: Sequence[memoryview]) -> Addresses:
    return np.array([address_of(page) for page in pages], np.uint64)


def address_of(memory: memoryview) -> int:
    """Where writable memory begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
