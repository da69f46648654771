"""Pools of ranks that hold other heads than mine: what of their blocks a write carries, at either end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynamoc.runtime.kv.layout import Heads, KvLayout, Span
from dynamoc.runtime.kv.pool import HostPool, Pool
from dynamoc.runtime.kv.transfer.cuts import Cut, HeadCut, RunCut
from dynamoc.runtime.kv.transfer.rows import rows_of
from dynamoc.runtime.kv.transfer.walk import Placement, Walk, walk
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.transfer import check_span


@dataclass(frozen=True, slots=True)
class Portion:
    """What of every block a write carries: these layers, or what `way` goes through of them."""

    layers: range
    span: Span
    way: Walk | None

    @property
    def size(self) -> int:
        """Bytes a block."""
        return self.span.size if self.way is None else self.way.size


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
    if heads.total != mine.held.total:
        raise TransportError(f"a writer with {heads} has another model than mine: {mine.held}")
    common = range(max(heads.first, mine.held.first), min(heads.first + heads.count, mine.held.first + mine.held.count))
    try:
        return walk(mine, mine, layers, common)
    except ValueError as error:
        raise TransportError(f"no writer with {heads} sends me anything: {error}") from error


def portion_to(pool: Pool, theirs: Placement, layers: range | None) -> Portion:
    """Of my blocks for a peer; TransportError if I lack these layers, or if we have no heads in common."""
    span = check_span(pool.layout, layers)
    return Portion(range(pool.layout.layers) if layers is None else layers, span, walk_to(pool, theirs, layers))


def portion_from(pool: Pool, heads: Heads | None, layers: range | None) -> Portion:
    """Of my blocks, what a writer with these heads fills; TransportError if nothing."""
    span = check_span(pool.layout, layers)
    return Portion(range(pool.layout.layers) if layers is None else layers, span, walk_from(pool, heads, layers))


def cut_of(data: memoryview, layout: KvLayout, way: Walk | None, layers: range | None) -> Cut:
    """What `way` goes through of the pool `data`, or these layers of each block; TransportError if it lacks them."""
    span = check_span(layout, layers)
    if way is None:
        return RunCut(rows_of(data, layout.block_bytes, span))
    return HeadCut(way, np.frombuffer(data, np.uint8))


def cut_from(pool: HostPool, heads: Heads | None, layers: range | None) -> Cut:
    """What of my blocks a writer with these heads fills; TransportError if nothing."""
    check_span(pool.layout, layers)
    return cut_of(pool.data, pool.layout, walk_from(pool, heads, layers), layers)
