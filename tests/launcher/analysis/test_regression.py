"""Two campaigns against each other: what is beyond tolerance and noise is said, the rest is not."""

from __future__ import annotations

import pytest
from result_rows import row, spread

from dynamoc.launcher.analysis.regression import Judgement, compare


def judged(old: list[float], new: list[float], figure: str = "requests/s") -> Judgement:
    before = {"p": [row(requests_per_s=value, ttft_ms=spread(value)) for value in old]}
    after = {"p": [row(requests_per_s=value, ttft_ms=spread(value)) for value in new]}
    return next(change.judgement for change in compare(before, after).changes if change.figure == figure)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([100.0], [104.0], Judgement.SAME),
        ([100.0], [106.0], Judgement.BETTER),
        ([100.0], [94.0], Judgement.WORSE),
        ([100.0, 80.0, 120.0], [90.0, 110.0, 70.0], Judgement.UNCERTAIN),
        ([100.0, 101.0, 99.0], [90.0, 91.0, 89.0], Judgement.WORSE),
    ],
)
def test_more_requests_are_better(old: list[float], new: list[float], expected: Judgement) -> None:
    assert judged(old, new) is expected


def test_more_time_is_worse() -> None:
    assert judged([100.0], [150.0], "TTFT p95") is Judgement.WORSE


def test_points_of_one_campaign_alone_are_named() -> None:
    comparison = compare({"a": [row()], "b": [row()]}, {"b": [row()], "c": [row()]})

    assert (comparison.only_old, comparison.only_new) == (("a",), ("c",))
    assert {change.point for change in comparison.changes} == {"b"}


def test_a_figure_that_was_not_measured_is_not_compared() -> None:
    comparison = compare({"p": [row(ttft_ms=None)]}, {"p": [row()]})

    assert "TTFT p95" not in {change.figure for change in comparison.changes}


def test_failures_out_of_nothing_are_worse() -> None:
    comparison = compare({"p": [row()]}, {"p": [row(completed=5, failed=5)]})
    (failed,) = (change for change in comparison.changes if change.figure == "failed")

    assert failed.judgement is Judgement.WORSE
    assert failed.ratio == float("inf")
