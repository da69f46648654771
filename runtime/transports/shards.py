"""Pools of ranks that hold other heads than mine: what of them a write carries, and its checks in host memory."""

from __future__ import annotations

from collections import deque

import numpy as np

from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.pool import HostPool, Pool
from dynamoc.runtime.kv.transfer.checksums import digest, units_of
from dynamoc.runtime.kv.transfer.pairs import Indices
from dynamoc.runtime.kv.transfer.slices import Bytes, gather_slices, scatter_slices
from dynamoc.runtime.kv.transfer.walk import Placement, Walk, walk
from dynamoc.runtime.transports.process import Watched
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.transfer import ThreadedTransfer

Chunks = deque[list[tuple[int, slice]]]


def placement_of(pool: Pool) -> Placement:
    """My own blocks."""
    return Placement(pool.layout, pool.blocks, heads=pool.heads)


def offered_placement(layout: KvLayout, heads: Heads, blocks: int) -> Placement:
    """A peer's; TransportError if what it says of itself cannot be."""
    try:
        return Placement(layout, blocks, heads=heads)
    except ValueError as error:
        raise TransportError(f"the peer's pool contradicts itself: {error}") from error


def walk_to(pool: Pool, theirs: Placement, layers: range | None = None) -> Walk | None:
    """All heads both of us hold; None if blocks are alike, byte for byte. TransportError if there are none."""
    mine = placement_of(pool)
    if (mine.layout, mine.held) == (theirs.layout, theirs.held):
        return None
    try:
        return walk(mine, theirs, layers)
    except ValueError as error:
        sizes = f"{theirs.layout.block_bytes} bytes, mine {mine.layout.block_bytes}"
        raise TransportError(f"the peer's blocks have {sizes}, and nothing in common: {error}") from error


def walk_from(pool: Pool, heads: Heads | None, layers: range | None) -> Walk | None:
    """Within my own blocks, what a writer with these heads sends; None if it has just mine."""
    if heads is None or heads == pool.heads:
        return None
    mine = placement_of(pool)
    common = range(max(heads.first, mine.held.first), min(heads.first + heads.count, mine.held.first + mine.held.count))
    try:
        return walk(mine, mine, layers, common)
    except ValueError as error:
        raise TransportError(f"no writer with {heads} sends me anything: {error}") from error


def copy_units(
    transfer: ThreadedTransfer, way: Walk, source: Bytes, target: Bytes, peer: Watched, chunks: Chunks
) -> int:
    """One lane over host memory: take chunks of units until none is left; bytes moved."""
    pairs, sums, moved = transfer.pairs, transfer.checksums, 0
    while True:
        transfer.check()
        peer.check()
        try:
            chunk = chunks.popleft()
        except IndexError:
            return moved
        for unit, part in chunk:
            data = gather_slices(way, source, pairs.sources[part])
            sums[unit] = digest(data)
            scatter_slices(way, data, target, pairs.destinations[part])
            moved += data.nbytes


def mismatched(way: Walk, pool: HostPool, blocks: Indices, checksums: bytes) -> Indices:
    """The blocks of the units whose slices are not what was sent; all, if there is not one checksum a unit."""
    units = list(units_of(blocks.size, way.size))
    if len(checksums) != 8 * len(units):
        return blocks
    data, expected = np.frombuffer(pool.data, np.uint8), np.frombuffer(checksums, "<u8").tolist()
    checked = zip(units, expected, strict=True)
    wrong = [blocks[unit] for unit, want in checked if digest(gather_slices(way, data, blocks[unit])) != want]
    return np.concatenate(wrong) if wrong else blocks[:0]
