"""Slices between pools of any order and any ranks: the numpy code against a plain loop, the kernels against both."""

from __future__ import annotations

import ctypes
import itertools
import math

import numpy as np
import pytest

from dynamoc.runtime.kv.cuda.copier import CHUNK_BYTES, STEPS
from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.transfer.shards import crossings, heads_of
from dynamoc.runtime.kv.transfer.slices import copy_slices, sum_slices
from dynamoc.runtime.kv.transfer.sums import sums_of
from dynamoc.runtime.kv.transfer.walk import HND, NHD, ORDERS, UNIVERSAL, Axis, Placement, Step, Walk, walk

SIZES = (1, 2, 4, 8)
POISON = 0xA5
BLOCKS = 5


def layout_of(heads: int, *, layers: int = 3, dim: int = 8, item: int = 2, tokens: int = 4, parts: int = 2) -> KvLayout:
    return KvLayout(layers, heads, dim, tokens, "bytes", item, parts)


def model(total: int, **sizes: int) -> np.ndarray:
    """[block][head][layer][part][token][bytes]: random KV of a model."""
    layout = layout_of(total, **sizes)
    shape = (BLOCKS, total, layout.layers, layout.parts, layout.block_size, layout.run_bytes)
    return np.random.default_rng(total).integers(0, 256, shape, np.uint8)


def laid_out(data: np.ndarray, placement: Placement) -> np.ndarray:
    """A rank's pool, put together by transposing: no code of ours."""
    held = placement.held
    part = data[:, held.first : held.first + held.count]
    have = [Axis.BLOCK, Axis.HEAD, Axis.LAYER, Axis.PART, Axis.TOKEN]
    return np.ascontiguousarray(part.transpose([*(have.index(axis) for axis in placement.order), 5])).reshape(-1)


def rank(total: int, ranks: int, number: int, order: tuple[Axis, ...] = HND, **sizes: int) -> Placement:
    held = heads_of(total, ranks, number)
    return Placement(layout_of(held.count, **sizes), BLOCKS, order, held)


def shuffled(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.permutation(BLOCKS), random.permutation(BLOCKS)


@pytest.mark.parametrize(("one", "other"), [*itertools.product(ORDERS, repeat=2)])
@pytest.mark.parametrize("layers", [None, range(1, 3)])
def test_any_order_becomes_any_other(one: str, other: str, layers: range | None) -> None:
    data, sources = model(3), np.arange(BLOCKS)
    source, target = (Placement(layout_of(3), BLOCKS, ORDERS[order]) for order in (one, other))
    pool = np.full(source.layout.block_bytes * BLOCKS, POISON, np.uint8)
    want = np.full_like(data, POISON)
    span = layers or range(3)
    want[:, :, span.start : span.stop] = data[:, :, span.start : span.stop]

    copy_slices(walk(source, target, layers), laid_out(data, source), sources, pool, sources)

    assert np.array_equal(pool, laid_out(want, target))


@pytest.mark.parametrize("total", [1, 2, 8], ids=["one latent", "GQA that repeats", "heads that are cut"])
@pytest.mark.parametrize(("x", "y"), [*itertools.product(SIZES, repeat=2)])
def test_a_worker_of_tp_x_fills_one_of_tp_y(total: int, x: int, y: int) -> None:
    data = model(total)
    sources, destinations = shuffled(x * 8 + y)
    pools = [np.full(rank(total, y, r).layout.block_bytes * BLOCKS, POISON, np.uint8) for r in range(y)]
    sums = [np.zeros((BLOCKS, 2), np.uint64) for _ in pools]

    for crossing in crossings(total, x, y):
        from_, to = rank(total, x, crossing.source), rank(total, y, crossing.target)
        way = walk(from_, to, heads=crossing.heads)
        pool = laid_out(data, from_)
        copy_slices(way, pool, sources, pools[crossing.target], destinations)
        sums[crossing.target] += sum_slices(way, pool, sources)

    moved = np.empty_like(data)
    moved[destinations] = data[sources]
    for number, pool in enumerate(pools):
        here = rank(total, y, number)
        assert np.array_equal(pool, laid_out(moved, here))
        assert np.array_equal(sum_slices(walk(here, here), pool, destinations), sums[number])


@pytest.mark.parametrize("total", [1, 2, 3, 8])
@pytest.mark.parametrize(("x", "y"), [*itertools.product(SIZES, repeat=2)])
def test_every_head_of_every_rank_is_sent_once_and_evenly(total: int, x: int, y: int) -> None:
    if any(total % ranks and ranks % total for ranks in (x, y)):
        with pytest.raises(ValueError, match="neither divide"):
            crossings(total, x, y)
        return
    found = crossings(total, x, y)

    wanted = {(r, head) for r in range(y) for head in _range(heads_of(total, y, r))}
    sent = [(crossing.target, head) for crossing in found for head in crossing.heads]
    by_rank = [sum(len(c.heads) for c in found if c.source == r) for r in range(x)]
    assert sorted(sent) == sorted(wanted)
    assert all(set(c.heads) <= set(_range(heads_of(total, x, c.source))) for c in found)
    assert max(by_rank) <= math.ceil(len(wanted) / x)


def _range(heads: Heads) -> range:
    return range(heads.first, heads.first + heads.count)


def test_the_sums_of_a_whole_block_are_those_of_its_canonical_bytes() -> None:
    data = model(4)
    here = Placement(layout_of(4), BLOCKS, NHD)

    found = sum_slices(walk(here, here), laid_out(data, here), np.arange(BLOCKS))

    assert found.tolist() == [list(sums_of(block.reshape(-1))) for block in data]


def test_sums_notice_two_heads_that_changed_places() -> None:
    data = model(2)
    here = Placement(layout_of(2), BLOCKS)
    swapped = laid_out(data[:, ::-1], here)

    one, other = (sum_slices(walk(here, here), pool, np.arange(BLOCKS)) for pool in (laid_out(data, here), swapped))

    assert np.array_equal(one[:, 0], other[:, 0])
    assert (one[:, 1] != other[:, 1]).all()


@pytest.mark.parametrize(
    ("one", "other", "heads", "says"),
    [
        (rank(8, 1, 0), rank(8, 1, 0, tokens=8), None, "not ranks of one model"),
        (rank(8, 1, 0), rank(8, 1, 0, dim=16), None, "not ranks of one model"),
        (rank(8, 2, 0), rank(4, 1, 0), None, "not ranks of one model"),
        (rank(8, 2, 0), rank(8, 2, 1), None, "not heads"),
        (rank(8, 2, 0), rank(8, 1, 0), range(3, 5), "not heads"),
        (rank(8, 1, 0), rank(8, 1, 0), range(0, 8, 2), "not heads"),
    ],
)
def test_what_cannot_be_walked_is_refused(one: Placement, other: Placement, heads: range | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        walk(one, other, heads=heads)


def test_loops_that_need_not_be_are_none() -> None:
    whole = Placement(layout_of(4), BLOCKS, UNIVERSAL)

    assert walk(whole, whole).steps == ()
    assert walk(whole, whole).run_bytes == layout_of(4).block_bytes
    assert len(walk(whole, Placement(layout_of(4), BLOCKS)).steps) == 2


# ---- the kernels -------------------------------------------------------------------------------------------


def run(
    kernels: ctypes.CDLL,
    kernel: str,
    way: Walk,
    sides: tuple[np.ndarray, np.ndarray],
    blocks: tuple[np.ndarray, np.ndarray],
    grid: tuple[int, int] = (3, 64),
) -> np.ndarray:
    """The sums; zeros if the kernel makes none."""
    sums = np.zeros((blocks[0].size, 2), np.uint64)
    tables = [order.astype(np.uint64) for order in blocks]
    bases = (sides[0].ctypes.data + way.source, sides[1].ctypes.data + way.target)
    strides = (way.source_stride, way.target_stride)
    runs = [np.array([t.ctypes.data, b, s], np.uint64) for t, b, s in zip(tables, bases, strides, strict=True)]
    steps = np.array([*way.steps, *[Step(1, 0, 0, 0)] * (STEPS - len(way.steps))], np.uint64)
    failed = kernels.launch_slices(
        kernel.encode(),
        *map(ctypes.c_uint32, grid),
        *(ctypes.c_void_p(side.ctypes.data) for side in runs),
        ctypes.c_uint32(blocks[0].size),
        ctypes.c_uint32(way.run_bytes),
        ctypes.c_uint64(way.size),
        ctypes.c_uint64(way.canonical),
        ctypes.c_void_p(steps.ctypes.data),
        ctypes.c_uint32(max(1, math.ceil(way.size / CHUNK_BYTES))),
        ctypes.c_void_p(sums.ctypes.data),
    )
    assert not failed
    return sums


SHAPES = [
    {"dim": 64, "item": 2, "tokens": 16, "layers": 2},  # lanes of 16 bytes
    {"dim": 4, "item": 2, "tokens": 4, "layers": 5},  # 8
    {"dim": 3, "item": 4, "tokens": 2, "layers": 3},  # 4
    {"dim": 3, "item": 1, "tokens": 3, "layers": 3},  # single bytes, words that two runs share
    {"dim": 40, "item": 2, "tokens": 16, "layers": 3, "parts": 1},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("one", "other"), [("hnd", "hnd"), ("hnd", "nhd"), ("layer-part-block", "universal")])
@pytest.mark.parametrize(("x", "y"), [(1, 1), (2, 1), (1, 4), (4, 2), (8, 8)])
def test_the_kernel_does_what_numpy_does(
    kernels_on_host: ctypes.CDLL, shape: dict[str, int], one: str, other: str, x: int, y: int
) -> None:
    data = model(4, **shape)
    blocks = shuffled(x)
    for crossing in crossings(4, x, y):
        from_ = rank(4, x, crossing.source, ORDERS[one], **shape)
        to = rank(4, y, crossing.target, ORDERS[other], **shape)
        way = walk(from_, to, range(1, shape["layers"]), crossing.heads)
        pool = laid_out(data, from_)
        got, want = (np.full(to.layout.block_bytes * BLOCKS, POISON, np.uint8) for _ in range(2))

        sums = run(kernels_on_host, "copy_and_sum_slices", way, (pool, got), blocks)
        copy_slices(way, pool, blocks[0], want, blocks[1])

        there = walk(to, to, range(1, shape["layers"]), crossing.heads)
        assert np.array_equal(got, want)
        assert np.array_equal(sums, sum_slices(way, pool, blocks[0]))
        assert np.array_equal(sums, run(kernels_on_host, "sum_slices", there, (got, got), (blocks[1], blocks[1])))


@pytest.mark.parametrize("grid", [(1, 32), (1, 512), (7, 160), (64, 64)])
def test_any_grid_covers_every_fragment(kernels_on_host: ctypes.CDLL, grid: tuple[int, int]) -> None:
    data, blocks = model(4, dim=64), shuffled()
    from_, to = rank(4, 2, 1, NHD, dim=64), rank(4, 1, 0, dim=64)
    way, pool = walk(from_, to), laid_out(data, rank(4, 2, 1, NHD, dim=64))
    got, want = (np.full(to.layout.block_bytes * BLOCKS, POISON, np.uint8) for _ in range(2))

    run(kernels_on_host, "copy_slices", way, (pool, got), blocks, grid)
    copy_slices(way, pool, blocks[0], want, blocks[1])

    assert np.array_equal(got, want)
