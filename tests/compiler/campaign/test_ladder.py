"""A ladder ends at its first breach; a search finds what trying every concurrency finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamoc.compiler.campaign.ladder import at_concurrency, at_most, left_out, next_points
from dynamoc.compiler.campaign.points import Ladder, Point, Search
from dynamoc.compiler.load_plan import LoadPoint


def point(concurrency: int) -> Point:
    load = LoadPoint(
        id=f"c{concurrency}",
        isl=128,
        osl=32,
        requests=10 * concurrency,
        warmup_requests=concurrency,
        concurrency=concurrency,
        rate=None,
        shared_prefix=0.0,
        seed=0,
        deadline_s=60.0,
    )
    return Point(id=f"p{concurrency}", deployment="d", load=load, tool="builtin")


@given(st.integers(1, 300), st.integers(0, 700), st.integers(0, 400))
def test_a_search_finds_the_largest_that_keeps_to_the_sla(low: int, span: int, best: int) -> None:
    search = Search(low=low, high=low + span, point=point(low + span))
    ladder = Ladder(search=search)
    kept: dict[str, bool] = {}
    tried: dict[int, bool] = {}
    while probes := next_points(ladder, kept, stops=False):
        (probe,) = probes
        concurrency = probe.load.concurrency
        assert concurrency is not None
        assert low <= concurrency <= low + span
        kept[probe.id] = tried[concurrency] = concurrency <= best

    found = max((c for c, good in tried.items() if good), default=None)
    assert found == (None if best < low else min(best, low + span))
    assert len(tried) <= at_most(ladder)


def test_a_point_of_a_search_is_the_same_whoever_asks() -> None:
    wide, narrow = Search(low=1, high=64, point=point(64)), Search(low=2, high=64, point=point(64))

    assert at_concurrency(wide, 8) == at_concurrency(narrow, 8)
    assert at_concurrency(wide, 8).load.requests == 80


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_ladder_that_stops_is_measured_up_to_its_first_breach(good: list[bool]) -> None:
    ladder = Ladder(points=tuple(point(n + 1) for n in range(len(good))))
    kept: dict[str, bool] = {}
    while steps := next_points(ladder, kept, stops=True):
        (step,) = steps
        kept[step.id] = good[ladder.points.index(step)]

    expected = good.index(False) + 1 if False in good else len(good)
    assert len(kept) == expected
    assert len(left_out(ladder, kept, stops=True)) == len(good) - expected
    assert not left_out(ladder, {}, stops=True)


def test_a_ladder_that_does_not_stop_is_measured_at_once() -> None:
    ladder = Ladder(points=(point(1), point(2)))

    assert next_points(ladder, {}, stops=False) == ladder.points
    assert next_points(ladder, {"p1": False}, stops=False) == ladder.points[1:]
