"""Adjacent blocks joined, against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.kv.transfer.extents import are_one, extents, in_order


@given(st.lists(st.integers(0, 40), unique=True))
def test_ranges_are_what_a_loop_finds(blocks: list[int]) -> None:
    want: list[list[int]] = []
    for block in blocks:
        if want and block == want[-1][-1] + 1:
            want[-1].append(block)
        else:
            want.append([block])

    found = extents(np.array(blocks, np.uint64))

    assert found.firsts.tolist() == [run[0] for run in want]
    assert found.counts.tolist() == [len(run) for run in want]


@pytest.mark.parametrize("count", [1, 1000])
def test_any_permutation_of_a_range_is_one_extent(count: int) -> None:
    blocks = np.random.default_rng(1).permutation(count).astype(np.uint64)

    found = extents(blocks[in_order(blocks)])

    assert (found.firsts.tolist(), found.counts.tolist()) == ([0], [count])


@given(st.lists(st.integers(0, 200) | st.integers(0, 1 << 40), unique=True))
def test_the_order_sorts(blocks: list[int]) -> None:
    places = np.array(blocks, np.uint64)

    ordered = places[in_order(places)]

    assert ordered.tolist() == sorted(blocks)
    assert are_one(ordered) == (bool(blocks) and sorted(blocks) == list(range(min(blocks), min(blocks) + len(blocks))))
