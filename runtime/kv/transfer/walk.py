"""Where a block's heads, layers and tokens are in pools of any order, and the walk that copies a slice between two.

Blocks of one model may lie differently on both sides, and each side may hold other heads of it. A slice has one place
in the *canonical* block, `[head][layer][k/v][token][dim]` over all heads of the model. Sums are weighted by that
place: they are the same on both sides, and those of a block are the sums of its slices added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dynamoc.runtime.kv.layout import Heads, KvLayout, all_heads


class Axis(StrEnum):
    """What an element is counted by; a head of a token is always one run."""

    BLOCK = "block"
    LAYER = "layer"
    PART = "part"
    HEAD = "head"
    TOKEN = "token"  # noqa: S105  (an axis, no secret)


Order = tuple[Axis, ...]
"""Outermost first."""
HND: Order = (Axis.BLOCK, Axis.LAYER, Axis.PART, Axis.HEAD, Axis.TOKEN)
"""Our own pools."""
NHD: Order = (Axis.BLOCK, Axis.LAYER, Axis.PART, Axis.TOKEN, Axis.HEAD)
UNIVERSAL: Order = (Axis.BLOCK, Axis.HEAD, Axis.LAYER, Axis.PART, Axis.TOKEN)
"""Pages off the device."""
LAYER_PART_BLOCK: Order = (Axis.LAYER, Axis.PART, Axis.BLOCK, Axis.TOKEN, Axis.HEAD)
LAYER_BLOCK_PART: Order = (Axis.LAYER, Axis.BLOCK, Axis.PART, Axis.TOKEN, Axis.HEAD)
ORDERS: Mapping[str, Order] = {
    "hnd": HND,
    "nhd": NHD,
    "universal": UNIVERSAL,
    "layer-part-block": LAYER_PART_BLOCK,
    "layer-block-part": LAYER_BLOCK_PART,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """`blocks` blocks of `layout` in this order, without gaps; `heads` None: the layout has all the model's."""

    layout: KvLayout
    blocks: int
    order: Order = HND
    heads: Heads | None = None

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(HND):
            raise ValueError(f"{self.order} is not every axis once")
        if self.held.count != self.layout.heads:
            raise ValueError(f"a rank with {self.layout.heads} heads cannot hold {self.held}")

    @property
    def held(self) -> Heads:
        """The model's heads that are here."""
        return self.heads or all_heads(self.layout)

    def strides(self) -> dict[Axis, int]:
        """Bytes from one to the next along each axis."""
        return _strides(self.order, _sizes(self.layout, self.blocks), self.layout.run_bytes)


class Step(NamedTuple):
    """One loop of a walk: how often, and how far on in bytes at the source, the target and in the canonical block."""

    times: int
    source: int
    target: int
    canonical: int


class Walk(NamedTuple):
    """A slice of any block: where it begins on both sides, how far apart blocks are, and the loops, innermost first.

    The innermost thing is a run of `run_bytes` that lies in one piece everywhere.
    """

    source: int
    target: int
    canonical: int
    source_stride: int
    target_stride: int
    run_bytes: int
    steps: tuple[Step, ...]

    @property
    def fragments(self) -> int:
        """Runs in one block."""
        count = 1
        for step in self.steps:
            count *= step.times
        return count

    @property
    def size(self) -> int:
        """Bytes of the slice in one block."""
        return self.fragments * self.run_bytes


def packed(way: Walk) -> Walk:
    """From blocks of the source to slices one after another, in the order of the target's blocks."""
    return way._replace(target=0, target_stride=way.size, steps=tuple(_one_by_one(way, "target")))


def unpacked(way: Walk) -> Walk:
    """From slices one after another, as `packed` leaves them, to blocks of the target."""
    return way._replace(source=0, source_stride=way.size, steps=tuple(_one_by_one(way, "source")))


def walk(source: Placement, target: Placement, layers: range | None = None, heads: range | None = None) -> Walk:
    """From one pool into the other; `heads`, by the model's count, are all that both have if None.

    ValueError if the pools are not of one model, or if one of them lacks the slice.
    """
    ours, theirs = (_facts(side.layout) for side in (source, target))
    if ours != theirs or source.held.total != target.held.total:
        raise ValueError(f"{source.layout} and {target.layout} are not ranks of one model")
    span = source.layout.span(layers)
    layer = span.start // source.layout.layer_bytes
    counts = _sizes(source.layout, 1) | {Axis.LAYER: span.size // source.layout.layer_bytes}
    common = _common(source.held, target.held) if heads is None else heads
    for side in (source.held, target.held):
        if not (len(common) and common.step == 1 and common[0] >= side.first and common[-1] < side.first + side.count):
            raise ValueError(f"{common} are not heads of {side}")
    counts[Axis.HEAD] = len(common)
    canonical = Placement(replace_heads(source.layout, source.held.total), 1, UNIVERSAL)
    strides = [side.strides() for side in (source, target, canonical)]
    firsts = (source.held.first, target.held.first, 0)
    starts = [
        layer * by[Axis.LAYER] + (common[0] - first) * by[Axis.HEAD] for by, first in zip(strides, firsts, strict=True)
    ]
    axes = [Step(counts[axis], *(by[axis] for by in strides)) for axis in HND if axis is not Axis.BLOCK]
    run_bytes, steps = _merged(source.layout.run_bytes, axes)
    blocks = (strides[0][Axis.BLOCK], strides[1][Axis.BLOCK])
    return Walk(starts[0], starts[1], starts[2], *blocks, run_bytes, steps)


def replace_heads(layout: KvLayout, heads: int) -> KvLayout:
    """The layout of a rank with other heads of the same model."""
    return KvLayout(
        layout.layers, heads, layout.head_dim, layout.block_size, layout.dtype, layout.item_bytes, layout.parts
    )


def _one_by_one(way: Walk, side: str) -> Iterator[Step]:
    reach = way.run_bytes
    for step in way.steps:
        yield step._replace(**{side: reach})
        reach *= step.times


def _merged(run_bytes: int, axes: Sequence[Step]) -> tuple[int, tuple[Step, ...]]:
    """Loops that go on where an inner one ends become one; the innermost becomes part of the run."""
    steps: list[Step] = []
    for step in sorted((axis for axis in axes if axis.times > 1), key=lambda step: step.target):
        inner = steps[-1] if steps else Step(1, run_bytes, run_bytes, run_bytes)
        reach = tuple(inner.times * stride for stride in inner[1:])
        if not steps and reach == step[1:]:
            run_bytes *= step.times
        elif steps and reach == step[1:]:
            steps[-1] = inner._replace(times=inner.times * step.times)
        else:
            steps.append(step)
    return run_bytes, tuple(steps)


def _common(one: Heads, other: Heads) -> range:
    return range(max(one.first, other.first), min(one.first + one.count, other.first + other.count))


def _facts(layout: KvLayout) -> tuple[object, ...]:
    return (layout.layers, layout.parts, layout.block_size, layout.head_dim, layout.dtype, layout.item_bytes)


def _sizes(layout: KvLayout, blocks: int) -> dict[Axis, int]:
    return {
        Axis.BLOCK: blocks,
        Axis.LAYER: layout.layers,
        Axis.PART: layout.parts,
        Axis.HEAD: layout.heads,
        Axis.TOKEN: layout.block_size,
    }


def _strides(order: Order, sizes: Mapping[Axis, int], run_bytes: int) -> dict[Axis, int]:
    strides, reach = {}, run_bytes
    for axis in reversed(order):
        strides[axis] = reach
        reach *= sizes[axis]
    return strides
