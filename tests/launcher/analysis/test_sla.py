"""Limits, and what is certain of them from percentiles of the completed requests alone."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_rows import row, spread

from dynamoc.launcher.analysis.attainment import attainment, goodput_per_s, statistic_of
from dynamoc.launcher.analysis.sla import (
    STATISTICS,
    Limit,
    LimitError,
    Outcome,
    bracket,
    check_limits,
    parse_limit,
    worst_outcome,
)
from dynamoc.launcher.load.point import RequestRecord
from dynamoc.launcher.results.row import spread_of


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("ttft@p95 <= 2 s", Limit("ttft", "p95", 2000.0)),
        (" tpot@avg<=30 ms ", Limit("tpot", "avg", 30.0)),
        ("error_rate <= 1%", Limit("error_rate", "avg", 0.01)),
        ("error_rate <= 0.05", Limit("error_rate", "avg", 0.05)),
    ],
)
def test_a_limit_is_read_and_written(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft@p95 < 2 s", "is no limit: write `METRIC@STATISTIC <= TIME`"),
        ("latency@p95 <= 2 s", "of ttft, tpot, itl, e2e"),
        ("ttft@p42 <= 2 s", "avg, p50, p90, p95, p99"),
        ("ttft@p95 <= 2 sec", "did you mean `2 s`?"),
        ("ttft@p95 <= 2000", "did you mean `2000 s`?"),
    ],
)
def test_what_is_no_limit_is_answered_with_one(text: str, says: str) -> None:
    with pytest.raises(LimitError) as caught:
        parse_limit(text)

    assert says in str(caught.value)


def brute_percentile(values: list[float], share: int) -> float:
    """By walking the sorted list: the definition, in other words."""
    ordered = sorted(values)
    steps = share * (len(ordered) - 1)
    whole, rest = divmod(steps, 100)
    if rest == 0:
        return ordered[whole]
    return ordered[whole] * (100 - rest) / 100 + ordered[whole + 1] * rest / 100


@settings(max_examples=10_000, deadline=None, database=None)
@given(st.integers(0, 2**63))
def test_statistics_and_brackets_equal_all_requests_with_failures_as_infinite(seed: int) -> None:
    draw = random.Random(seed)
    failing, statistic = draw.choice((0.0, 0.03, 0.3)), draw.choice(STATISTICS)
    times = [None if draw.random() < failing else float(draw.randrange(30)) for _ in range(draw.randint(1, 40))]
    values = [math.inf if time is None else time for time in times]
    good = [time for time in times if time is not None]
    share = None if statistic == "avg" else int(statistic[1:])
    expected = sum(values) / len(values) if share is None else brute_percentile(values, share)

    assert statistic_of(values, statistic) == pytest.approx(expected)
    low, high = bracket(spread_of(good), len(good), len(times), statistic) if good else (math.inf, math.inf)
    assert low - 1e-3 <= expected <= high + 1e-3
    if len(good) == len(times):
        assert low == high == pytest.approx(expected, abs=1e-3)


RECORDS = st.lists(
    st.builds(
        lambda ttft, rest, osl, error: RequestRecord(
            index=0,
            started=0.0,
            e2e_ms=float(ttft + rest),
            input_tokens=4,
            output_tokens=osl,
            ttft_ms=float(ttft),
            token_ms=(float(ttft), float(ttft + rest)),
            error="refused" if error else None,
        ),
        st.integers(0, 20),
        st.integers(0, 60),
        st.integers(1, 4),
        st.booleans(),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=1_000, deadline=None, database=None)
@given(records=RECORDS, ttft=st.integers(0, 20), tpot=st.integers(0, 30))
def test_attainment_and_goodput_count_requests_one_by_one(records: list[RequestRecord], ttft: int, tpot: int) -> None:
    good = fast = 0
    for record in records:
        if record.error is None:
            assert record.ttft_ms is not None
            each = (record.e2e_ms - record.ttft_ms) / max(record.output_tokens - 1, 1)
            slow = record.output_tokens > 1 and each > tpot
            fast += record.ttft_ms <= ttft
            good += record.ttft_ms <= ttft and not slow
    limits = [Limit("ttft", "p95", float(ttft)), Limit("tpot", "avg", float(tpot))]

    assert attainment(records, len(records) + 2, "ttft", ttft) == fast / (len(records) + 2)
    assert goodput_per_s(records, limits, 4.0) == good / 4


def test_a_limit_between_two_known_percentiles_is_unknown() -> None:
    """One of 40 failed: the p95 of all is the p97.4 of the completed, between 150 and 300 ms."""
    slow = row(requests=40, completed=39, failed=1, ttft_ms=spread(100.0, p95=150.0, p99=300.0))
    outcomes = {most: check_limits(slow, [Limit("ttft", "p95", most)])[0].outcome for most in (140.0, 200.0, 300.0)}

    assert outcomes == {140.0: Outcome.MISSED, 200.0: Outcome.UNKNOWN, 300.0: Outcome.MET}


def test_many_failures_are_a_percentile_that_never_ends() -> None:
    failed = row(requests=10, completed=8, failed=2)
    (check,) = check_limits(failed, [Limit("e2e", "p90", 1e9)])

    assert check.outcome is Outcome.MISSED
    assert math.isinf(check.low)


def test_requests_that_were_never_made_count_as_failed() -> None:
    (check,) = check_limits(row(requests=20, complete=False), [Limit("error_rate", "avg", 0.1)])

    assert check.low == 0.5
    assert check.outcome is Outcome.MISSED


def test_a_run_with_nothing_meets_nothing() -> None:
    nothing = row(completed=0, failed=10, ttft_ms=None)

    assert worst_outcome(check_limits(nothing, [Limit("ttft", "p50", 1e9)])) is Outcome.MISSED


def test_a_percentile_a_tool_did_not_give_is_bounded_by_its_neighbours() -> None:
    from dynamoc.launcher.results.row import Spread

    sparse = row(ttft_ms=Spread(avg=1.0, p50=10.0, p99=50.0))
    outcomes = [check_limits(sparse, [Limit("ttft", "p95", most)])[0].outcome for most in (9.0, 20.0, 50.0)]

    assert outcomes == [Outcome.MISSED, Outcome.UNKNOWN, Outcome.MET]
