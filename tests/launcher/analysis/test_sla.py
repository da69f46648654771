"""Limits, and what is certain of them from percentiles of the completed requests alone."""

from __future__ import annotations

import math
import random

import pytest
from result_rows import row, spread
from seeded import seeded

from dynamoc.compiler.campaign.limits import STATISTICS, Limit, read_limit
from dynamoc.launcher.analysis.attainment import attainment, goodput_per_s, statistic_of
from dynamoc.launcher.analysis.sla import (
    Outcome,
    bracket,
    check_limits,
    worst_outcome,
)
from dynamoc.launcher.load.point import RequestRecord
from dynamoc.launcher.results.row import spread_of


def brute_percentile(values: list[float], share: int) -> float:
    """By walking the sorted list: the definition, in other words."""
    ordered = sorted(values)
    steps = share * (len(ordered) - 1)
    whole, rest = divmod(steps, 100)
    if rest == 0:
        return ordered[whole]
    return ordered[whole] * (100 - rest) / 100 + ordered[whole + 1] * rest / 100


@seeded(10_000)
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


def random_record(draw: random.Random) -> RequestRecord:
    ttft, rest = float(draw.randint(0, 20)), float(draw.randint(0, 60))
    return RequestRecord(
        index=0,
        started=0.0,
        e2e_ms=ttft + rest,
        input_tokens=4,
        output_tokens=draw.randint(1, 4),
        ttft_ms=ttft,
        token_ms=(ttft, ttft + rest),
        error=draw.choice(("refused", None)),
    )


@seeded(10_000)
def test_attainment_and_goodput_count_requests_one_by_one(seed: int) -> None:
    draw = random.Random(seed)
    records = [random_record(draw) for _ in range(draw.randint(1, 10))]
    ttft, tpot = draw.randint(0, 20), draw.randint(0, 30)
    good = fast = 0
    for record in records:
        if record.error is None:
            assert record.ttft_ms is not None
            each = (record.e2e_ms - record.ttft_ms) / max(record.output_tokens - 1, 1)
            slow = record.output_tokens > 1 and each > tpot
            fast += record.ttft_ms <= ttft
            good += record.ttft_ms <= ttft and not slow
    limits = [read_limit(f"ttft_ms@p95 <= {ttft}"), read_limit(f"tpot_ms@avg <= {tpot}")]

    assert attainment(records, len(records) + 2, "ttft_ms", ttft) == fast / (len(records) + 2)
    assert goodput_per_s(records, limits, 4.0) == good / 4


def test_a_limit_between_two_known_percentiles_is_unknown() -> None:
    """One of 40 failed: the p95 of all is the p97.4 of the completed, between 150 and 300 ms."""
    slow = row(requests=40, completed=39, failed=1, ttft_ms=spread(100.0, p95=150.0, p99=300.0))
    outcomes = {
        most: check_limits(slow, [Limit("ttft_ms", "p95", "<=", most)])[0].outcome for most in (140.0, 200.0, 300.0)
    }

    assert outcomes == {140.0: Outcome.MISSED, 200.0: Outcome.UNKNOWN, 300.0: Outcome.MET}


def test_many_failures_are_a_percentile_that_never_ends() -> None:
    failed = row(requests=10, completed=8, failed=2)
    (check,) = check_limits(failed, [Limit("e2e_ms", "p90", "<=", 1e9)])

    assert check.outcome is Outcome.MISSED
    assert math.isinf(check.low)


def test_requests_that_were_never_made_count_as_failed() -> None:
    (check,) = check_limits(row(requests=20, complete=False), [read_limit("error_rate <= 0.1")])

    assert check.low == 0.5
    assert check.outcome is Outcome.MISSED


def test_a_run_with_nothing_meets_nothing() -> None:
    nothing = row(completed=0, failed=10, ttft_ms=None)

    assert worst_outcome(check_limits(nothing, [Limit("ttft_ms", "p50", "<=", 1e9)])) is Outcome.MISSED


def test_a_percentile_a_tool_did_not_give_is_bounded_by_its_neighbours() -> None:
    from dynamoc.launcher.results.row import Spread

    sparse = row(ttft_ms=Spread(avg=1.0, p50=10.0, p99=50.0))
    outcomes = [check_limits(sparse, [Limit("ttft_ms", "p95", "<=", most)])[0].outcome for most in (9.0, 20.0, 50.0)]

    assert outcomes == [Outcome.MISSED, Outcome.UNKNOWN, Outcome.MET]


def test_a_least_rate_is_a_limit_too() -> None:
    slow, fast = (check_limits(row(), [read_limit(text)])[0] for text in ("requests_per_s >= 3", "requests_per_s >= 2"))

    assert (slow.outcome, fast.outcome) == (Outcome.MISSED, Outcome.MET)
    assert check_limits(row(), [read_limit("goodput_per_s >= 1")])[0].outcome is Outcome.UNKNOWN
