"""Cost and choice: vectors worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.router.cost import (
    ASSUMED,
    bypasses_prefill,
    compute_cost,
    credit,
    credits_of,
    decode_cost,
    pick,
    work_tokens,
)
from dynamoc.runtime.router.load import Charge, Load, Share


@pytest.mark.parametrize(
    ("matched", "overlap_credit", "expected"),
    [
        ((0, 0, 0, 0), 1.0, 0.0),
        ((10, 0, 0, 0), 1.0, 10.0),
        ((10, 0, 0, 0), 0.5, 5.0),
        ((10, 0, 0, 0), 0.0, 0.0),
        ((2, 4, 8, 10), 1.0, 2 + 3 + 2 + 1),
    ],
)
def test_credit(matched: tuple[int, int, int, int], overlap_credit: float, expected: float) -> None:
    assert credit(matched, overlap_credit) == pytest.approx(expected)


def test_measured_tiers_count_for_what_they_save() -> None:
    measured = credits_of((0.9, None, 0.0))

    assert measured == (0.9, 0.25, 0.0)
    assert credit((2, 10, 4, 7), 1.0, measured) == pytest.approx(2 + 9 + 1)
    assert credits_of(()) == ASSUMED


@pytest.mark.parametrize(
    ("prompt", "pending", "decode", "saved", "scale", "expected"),
    [
        (10.0, 0.0, 0, 0.0, 1.0, 10.0),
        (10.0, 4.0, 7, 0.0, 1.0, 21.0),
        (10.0, 4.0, 7, 6.0, 1.0, 15.0),
        (10.0, 4.0, 7, 6.0, 2.0, 23.0),
        (10.0, 0.0, 7, 99.0, 1.0, 7.0),  # never less than nothing to compute
        (10.0, 4.0, 7, 6.0, 0.0, 7.0),
    ],
)
def test_compute_cost(prompt: float, pending: float, decode: int, saved: float, scale: float, expected: float) -> None:
    assert compute_cost(prompt, pending, decode, saved, scale) == expected


def test_decode_cost() -> None:
    assert decode_cost(12, 5.0) == 7.0
    assert decode_cost(3, 5.0) == 0.0


@pytest.mark.parametrize(("below", "bypasses"), [(0, False), (20, False), (21, True), (1000, True)])
def test_bypass_is_for_fewer_uncached_tokens_than_the_cap(below: int, bypasses: bool) -> None:
    assert work_tokens(100, 16, (5, 0, 0, 0)) == 20
    assert bypasses_prefill(20, below) is bypasses


def test_a_prompt_that_is_wholly_cached_is_no_work() -> None:
    assert work_tokens(64, 16, (4, 0, 0, 0)) == 0


def test_to_bring_a_block_back_is_part_of_the_work_of_computing_it() -> None:
    assert work_tokens(160, 16, (2, 4, 4, 0), (0.75, 0.5, 0.0)) == 160 - 16 * (2 + 3 + 2)
    assert work_tokens(160, 16, (0, 10, 0, 0), (1.0, 0.5, 0.0)) == 0


# ---- choice ----------------------------------------------------------------------------------------------


def shares(costs: list[float], temperature: float, draws: int = 4000) -> list[float]:
    rng = Random(7)
    counts = Counter(pick(costs, temperature, rng) for _ in range(draws))
    return [counts[position] / draws for position in range(len(costs))]


def test_the_lowest_cost_wins_at_temperature_zero() -> None:
    assert shares([3.0, 1.0, 2.0], 0.0, 50) == [0.0, 1.0, 0.0]


def test_ties_are_drawn_uniformly() -> None:
    assert shares([1.0, 5.0, 1.0, 1.0], 0.0) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.04)
    assert shares([2.0, 2.0], 1.0) == pytest.approx([0.5, 0.5], abs=0.04)


def test_temperature_spreads_by_the_softmax_of_the_scaled_cost() -> None:
    weights = [math.exp(-0.0 / 0.5), math.exp(-0.5 / 0.5), math.exp(-1.0 / 0.5)]
    expected = [weight / sum(weights) for weight in weights]
    assert shares([10.0, 15.0, 20.0], 0.5) == pytest.approx(expected, abs=0.04)
    assert shares([0.0, 0.5, 1.0], 0.5) == pytest.approx(expected, abs=0.04)  # the scale of the costs is no matter


def test_costs_too_far_apart_for_a_float_are_still_chosen_among() -> None:
    assert shares([1.7e308, -1.7e308], 0.1) == pytest.approx([0.0, 1.0], abs=0.01)


def test_the_same_seed_chooses_the_same() -> None:
    costs = [1.0, 2.0, 1.0, 3.0]
    first, second = Random(3), Random(3)
    assert [pick(costs, 0.7, first) for _ in range(50)] == [pick(costs, 0.7, second) for _ in range(50)]


@given(
    st.lists(st.floats(0, 1e12), min_size=1, max_size=20), st.sampled_from([0.0, 1e-9, 0.3, 1.0, 100.0]), st.integers()
)
def test_a_choice_is_always_one_of_them(costs: list[float], temperature: float, seed: int) -> None:
    chosen = pick(costs, temperature, Random(seed))
    assert 0 <= chosen < len(costs)
    if temperature == 0.0:
        assert costs[chosen] == min(costs)


# ---- load ------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["prompt_computed", "ended"]), max_size=5), st.booleans())
def test_load_returns_to_what_it_was_however_often_it_is_taken_back(steps: list[str], disaggregated: bool) -> None:
    serving, prefill = Load(5, 6, 7), Load(8, 9, 10)
    charge = Charge(Share(serving, 100, 4), Share(prefill, 200, 3) if disaggregated else None)
    charge.add()
    assert (serving.prefill_tokens, serving.blocks, serving.requests) == (105, 10, 8)
    for step in [*steps, "ended"]:
        getattr(charge, step)()
    assert serving == Load(5, 6, 7)
    assert prefill == Load(8, 9, 10)


def test_a_computed_prompt_leaves_only_decode_load() -> None:
    serving, prefill = Load(), Load()
    charge = Charge(Share(serving, 0, 4), Share(prefill, 64, 4))
    charge.add()
    assert (prefill.prefill_tokens, prefill.requests) == (64, 1)
    charge.prompt_computed()
    assert prefill == Load()
    assert (serving.blocks, serving.requests) == (4, 1)


def test_the_worker_s_own_count_is_believed_where_it_is_higher() -> None:
    load = Load(blocks=3, requests=2)
    load.reported(requests=1, blocks=9)
    assert (load.active_blocks, load.active_requests) == (9, 2)
    load.blocks -= 3  # what ends here is over at once, before the next report
    assert load.active_blocks == 6
    load.reported(requests=0, blocks=0)
    assert (load.active_blocks, load.active_requests) == (0, 2)
