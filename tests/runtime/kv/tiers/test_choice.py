"""To load or to compute, and when to begin to compute: predictions against what a simulation of both gives."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from dynamoc.runtime.kv.tiers.choice import PrefillSpeed, comes_in_time, hidden_prefix, useful_prefix

TIMES = st.floats(0.01, 10)


def waits(there: int, groups: int, load_s: float, step_s: float) -> list[float]:
    """How long a step that begins now waits for each group, if it computed all groups before it without a pause."""
    return [max(0.0, (group + 1 - there) * load_s - group * step_s) for group in range(there, groups)]


@given(st.integers(1, 12), st.integers(0, 12), TIMES, TIMES)
def test_a_step_that_comes_in_time_waits_for_nothing(groups: int, there: int, elapsed_s: float, compute_s: float):
    there = min(there, groups)
    foreseen = waits(there, groups, elapsed_s / max(there, 1), compute_s / groups)
    longest = max(foreseen, default=0.0)
    assume(there in (0, groups) or not 0 < longest < 1e-6)

    assert comes_in_time(there, groups, elapsed_s, compute_s) == (there > 0 and not longest)


def test_nothing_begins_before_a_first_group() -> None:
    assert not comes_in_time(0, 8, 0.0, 100.0)
    assert comes_in_time(1, 8, 1.0, 100.0)
    assert not comes_in_time(1, 8, 1.0, 7.9)
    assert comes_in_time(8, 8, 100.0, 0.0)


def test_the_cheapest_split_is_loaded() -> None:
    assert useful_prefix([1, 1, 1], 2, 0.5) == 3
    assert useful_prefix([1, 1, 1], 2, 4) == 0, "the start costs more than it saves"
    assert useful_prefix([1, 1, 5, 5], 2, 0.5) == 2, "host memory yes, the object store no"
    assert useful_prefix([1, 5, 1, 1, 1, 1], 2, 0.5) == 6, "a slow block between fast ones"
    assert useful_prefix([], 2, 0.5) == 0


def test_what_is_computed_in_any_case_changes_nothing_while_pages_come_whole() -> None:
    assert useful_prefix([3, 3, 3], 2, 0.5, more_blocks=50) == 0


def test_computing_hides_a_slow_load_that_comes_in_pieces() -> None:
    assert useful_prefix([3, 3, 3], 2, 0.5, pieces=8, more_blocks=50) == 3
    assert useful_prefix([3, 3, 3], 2, 0.5, pieces=8, more_blocks=0) == 1, "two are computed while one is loaded"


@given(st.lists(TIMES, max_size=8), TIMES, TIMES, st.integers(1, 8), st.integers(0, 20))
def test_no_other_split_is_sooner_done(load_s: list[float], compute_s: float, start_s: float, pieces: int, more: int):
    def total(count: int) -> float:
        loading = start_s + sum(load_s[:count]) if count else 0.0
        computing = (len(load_s) - count + more) * compute_s
        return max(loading, computing) + min(loading, computing) / pieces

    best = useful_prefix(load_s, compute_s, start_s, pieces, more)

    assert total(best) <= min(map(total, range(len(load_s) + 1))) + 1e-9


@given(st.lists(TIMES, max_size=8), TIMES, st.floats(0, 100))
def test_a_load_beside_a_peer_is_as_long_as_nobody_waits_for_it(load_s: list[float], start_s: float, hidden_s: float):
    count = hidden_prefix(load_s, start_s, hidden_s)

    assert not count or start_s + sum(load_s[:count]) <= hidden_s + 1e-9
    assert count == len(load_s) or start_s + sum(load_s[: count + 1]) > hidden_s - 1e-9


def test_a_peer_that_answers_at_once_leaves_nothing_to_load() -> None:
    assert hidden_prefix([1, 1, 1], 0.5, 0.2) == 0
    assert hidden_prefix([1, 1, 1], 0.5, 1.4) == 0
    assert hidden_prefix([1, 1, 1], 0.5, 2.6) == 2
    assert hidden_prefix([], 0.5, 9) == 0


def test_a_speed_foresees_nothing_before_it_was_seen() -> None:
    speed = PrefillSpeed()
    assert speed.seconds(100) is None
    speed.observe(50, 0.5)
    assert speed.seconds(100) == 1.0
