"""Slices moved and summed on a real GPU: every order into every other, and ranks of one size into ranks of another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gpu_pools import download, uploaded, why_no_gpu

from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.transfer.shards import crossings, heads_of
from dynamoc.runtime.kv.transfer.slices import copy_slices, sum_slices
from dynamoc.runtime.kv.transfer.walk import ORDERS, Order, Placement, walk

BLOCKS = 40
POISON = 0xA5
HEADS = 4


pytestmark = pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu() or "there is a GPU")


def rank(ranks: int, number: int, order: Order, dim: int) -> Placement:
    held = heads_of(HEADS, ranks, number)
    return Placement(KvLayout(3, held.count, dim, 16, "bytes", 2), BLOCKS, order, held)


def both(copier: Copier, from_: Placement, to: Placement, layers: range | None, heads: range | None) -> None:
    """The same slices moved by the kernel and by numpy."""
    way, there = walk(from_, to, layers, heads), walk(to, to, layers, heads)
    random = np.random.default_rng(1)
    data = random.integers(0, 256, from_.layout.block_bytes * BLOCKS, np.uint8)
    want = np.full(to.layout.block_bytes * BLOCKS, POISON, np.uint8)
    source, target = uploaded(from_.layout, data), uploaded(to.layout, want)
    sources, destinations = random.permutation(BLOCKS), random.permutation(BLOCKS)
    runs = [
        Runs(pool.address, stride, order.astype(np.uint64))
        for pool, stride, order in (
            (source, way.source_stride, sources),
            (target, way.target_stride, destinations),
        )
    ]

    copy = copier.copy_slices(way, *runs, sums=True)
    copy.wait(30)
    found = copier.sum_slices(there, runs[1])
    found.wait(30)
    got = download(target).reshape(-1)
    source.close()
    target.close()

    copy_slices(way, data, sources, want, destinations)
    assert np.array_equal(got, want)
    assert copy.sums is not None
    assert found.sums is not None
    assert np.array_equal(copy.sums, sum_slices(way, data, sources))
    assert np.array_equal(copy.sums, found.sums)


@pytest.mark.parametrize("dim", [64, 5])
@pytest.mark.parametrize("layers", [None, range(1, 3)])
def test_orders(dim: int, layers: range | None) -> None:
    copier = Copier(0, ctas=8, slots=2, slot_runs=16)
    for one, other in itertools.product(ORDERS.values(), repeat=2):
        both(copier, rank(1, 0, one, dim), rank(1, 0, other, dim), layers, None)
    copier.close()


def test_ranks() -> None:
    copier = Copier(0)
    for x, y in itertools.product((1, 2, 4, 8), repeat=2):
        for crossing in crossings(HEADS, x, y):
            from_, to = rank(x, crossing.source, ORDERS["nhd"], 64), rank(y, crossing.target, ORDERS["hnd"], 64)
            both(copier, from_, to, None, crossing.heads)
    copier.close()
