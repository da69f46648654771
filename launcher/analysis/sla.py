"""Whether a result kept to its limits. A request that failed, or was never made, took for ever."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dynamoc.compiler.campaign.limits import SPREADS, Limit
from dynamoc.launcher.results.row import PERCENTILES, Row, Spread

ROUNDING = 1e-9


class Outcome(StrEnum):
    """Whether a limit was kept; unknown where a tool's percentiles do not tell."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """What was seen of a limit: the figure is at least `low` and at most `high`, mostly the same number."""

    limit: Limit
    low: float
    high: float

    @property
    def outcome(self) -> Outcome:
        """Met or missed only where it is certain."""
        holds = self.limit.holds(self.low), self.limit.holds(self.high)
        return Outcome.MET if all(holds) else Outcome.UNKNOWN if any(holds) else Outcome.MISSED


def check_limits(row: Row, limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Each limit against a row."""
    return tuple(Check(limit, *_seen(row, limit)) for limit in limits)


def worst_outcome(checks: Sequence[Check]) -> Outcome:
    """Met where all are; missed where any is."""
    outcomes = {check.outcome for check in checks}
    return next((outcome for outcome in (Outcome.MISSED, Outcome.UNKNOWN) if outcome in outcomes), Outcome.MET)


def requests_of(row: Row) -> int:
    """Requests that should have been completed; one that was never made counts as failed."""
    return max(row.requests, row.completed + row.failed)


def _seen(row: Row, limit: Limit) -> tuple[float, float]:
    asked = requests_of(row)
    if limit.metric in SPREADS:
        spread: Spread | None = getattr(row, limit.metric)
        return bracket(spread, row.completed, asked, limit.statistic) if row.completed else (math.inf, math.inf)
    if limit.metric == "error_rate":
        value: float | None = 1 - row.completed / asked if asked else 0.0
    else:
        value = asked - row.completed if limit.metric == "failed" else getattr(row, limit.metric)
    return (0.0, math.inf) if value is None else (float(value), float(value))


def bracket(spread: Spread | None, completed: int, asked: int, statistic: str) -> tuple[float, float]:
    """The least and the most that a statistic over all requests can be, of the spread over the completed ones.

    The percentile of all is a higher one of the completed: its neighbours in the spread are on either side of it.
    """
    if statistic == "avg":
        values = (math.inf, math.inf) if completed < asked else (0.0, math.inf)
        return (spread.avg, spread.avg) if spread is not None and completed == asked else values
    share = float(statistic.removeprefix("p"))
    place = (asked - 1) * share / 100
    if place > completed - 1:
        return math.inf, math.inf
    wanted = share if completed == asked else 100 * place / (completed - 1) if completed > 1 else 100.0
    known = [(at, value) for at in PERCENTILES if spread and (value := getattr(spread, f"p{at}")) is not None]
    low = max((value for at, value in known if at <= wanted + ROUNDING), default=0.0)
    high = min((value for at, value in known if at >= wanted - ROUNDING), default=math.inf)
    return low, max(low, high)
