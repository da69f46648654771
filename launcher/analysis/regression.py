"""What became better or worse between two campaigns, point by point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dynamoc.launcher.analysis.intervals import Mean, difference, mean_of
from dynamoc.launcher.results.row import Row, Spread

TOLERANCE = 0.05
"""Share by which a figure may differ before it is worth a word."""


class Judgement(StrEnum):
    """Uncertain: beyond the tolerance, and within what the repeats differ among themselves."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a row that campaigns are compared by."""

    name: str
    of: Callable[[Row], float | None]
    larger_is_better: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one point; `interval` is that of `new - old`, None without repeats."""

    point: str
    figure: str
    old: Mean
    new: Mean
    interval: tuple[float, float] | None
    judgement: Judgement

    @property
    def ratio(self) -> float:
        """New by old."""
        if self.old.value:
            return self.new.value / self.old.value
        return math.inf if self.new.value else 1.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes, and the points that only one of the campaigns has a result of."""

    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]


def _percentile(metric: str, name: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        spread: Spread | None = getattr(row, metric)
        value: float | None = None if spread is None else getattr(spread, name)
        return value

    return of


FIGURES = (
    Figure("requests/s", lambda row: row.requests_per_s, larger_is_better=True),
    Figure("output tokens/s", lambda row: row.output_tokens_per_s, larger_is_better=True),
    Figure("TTFT p95", _percentile("ttft_ms", "p95"), larger_is_better=False),
    Figure("TPOT p95", _percentile("tpot_ms", "p95"), larger_is_better=False),
    Figure("e2e p95", _percentile("e2e_ms", "p95"), larger_is_better=False),
    Figure("failed", lambda row: row.failed / row.requests if row.requests else None, larger_is_better=False),
)


def compare(
    old: Mapping[str, Sequence[Row]], new: Mapping[str, Sequence[Row]], tolerance: float = TOLERANCE
) -> Comparison:
    """Rows by point, repeats together: same content, same point."""
    both = [point for point in old if point in new]
    found = (_change(point, figure, old[point], new[point], tolerance) for point in both for figure in FIGURES)
    changes = tuple(change for change in found if change is not None)
    return Comparison(changes, tuple(p for p in old if p not in new), tuple(p for p in new if p not in old))


def _change(point: str, figure: Figure, old: Sequence[Row], new: Sequence[Row], tolerance: float) -> Change | None:
    before = [value for row in old if (value := figure.of(row)) is not None]
    after = [value for row in new if (value := figure.of(row)) is not None]
    if not before or not after:
        return None
    means = mean_of(before), mean_of(after)
    interval = difference(*means)
    return Change(point, figure.name, *means, interval, _judge(*means, interval, figure, tolerance))


def _judge(old: Mean, new: Mean, interval: tuple[float, float] | None, figure: Figure, tolerance: float) -> Judgement:
    by = new.value - old.value
    if abs(by) <= tolerance * abs(old.value):
        return Judgement.SAME
    if interval is not None and interval[0] <= 0 <= interval[1]:
        return Judgement.UNCERTAIN
    return Judgement.BETTER if (by > 0) == figure.larger_is_better else Judgement.WORSE
