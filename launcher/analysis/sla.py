"""Targets that a load must meet, `ttft@p95 <= 2 s`, and whether it did. A request that failed took for ever."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dynamoc.compiler.units import QuantityError, parse_duration
from dynamoc.launcher.results.row import PERCENTILES, Row, Spread

TIMES = ("ttft", "tpot", "itl", "e2e")
ERROR_RATE = "error_rate"
STATISTICS = ("avg", *(f"p{share}" for share in PERCENTILES))
MILLI = 1000.0
_TIME = re.compile(r"\s*([a-z0-9]+)\s*@\s*([a-z0-9]+)\s*<=\s*(.+?)\s*")
_RATE = re.compile(rf"\s*{ERROR_RATE}\s*<=\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*")


class LimitError(ValueError):
    """Not a limit; the message says what one looks like."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a statistic of a metric may be: ms, or of `error_rate` a share of 1."""

    metric: str
    statistic: str
    most: float

    def __str__(self) -> str:
        if self.metric == ERROR_RATE:
            return f"{ERROR_RATE} <= {self.most * 100:g}%"
        return f"{self.metric}@{self.statistic} <= {self.most:g} ms"


class Outcome(StrEnum):
    """Whether a limit was kept; unknown where a tool's percentiles do not tell."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """What was seen of a limit: the statistic is at least `low` and at most `high`, mostly the same number."""

    limit: Limit
    low: float
    high: float

    @property
    def outcome(self) -> Outcome:
        """Missed only where it is certain."""
        if self.high <= self.limit.most:
            return Outcome.MET
        return Outcome.MISSED if self.low > self.limit.most else Outcome.UNKNOWN


def parse_limit(text: str) -> Limit:
    """`ttft@p95 <= 2 s` or `error_rate <= 1%`; LimitError."""
    rate = _RATE.fullmatch(text)
    if rate is not None:
        return Limit(ERROR_RATE, "avg", float(rate[1]) / (100 if rate[2] else 1))
    time = _TIME.fullmatch(text)
    if time is None or time[1] not in TIMES or time[2] not in STATISTICS:
        words = f"`METRIC@STATISTIC <= TIME` of {', '.join(TIMES)} and {', '.join(STATISTICS)}"
        raise LimitError(f"`{text}` is no limit: write {words}, such as `ttft@p95 <= 2 s`, or `{ERROR_RATE} <= 1%`")
    try:
        return Limit(time[1], time[2], parse_duration(time[3]) * MILLI)
    except QuantityError as error:
        meant = f"; did you mean `{error.near}`?" if error.near else ""
        raise LimitError(f"`{text}`: {error}{meant}") from error


def check_limits(row: Row, limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Each limit against a row."""
    return tuple(_check(row, limit) for limit in limits)


def worst_outcome(checks: Sequence[Check]) -> Outcome:
    """Met where all are; missed where any is."""
    outcomes = {check.outcome for check in checks}
    return next((outcome for outcome in (Outcome.MISSED, Outcome.UNKNOWN) if outcome in outcomes), Outcome.MET)


def _check(row: Row, limit: Limit) -> Check:
    asked = requests_of(row)
    if limit.metric == ERROR_RATE:
        share = 1 - row.completed / asked if asked else 0.0
        return Check(limit, share, share)
    spread: Spread | None = getattr(row, f"{limit.metric}_ms")
    low, high = (math.inf, math.inf) if not row.completed else bracket(spread, row.completed, asked, limit.statistic)
    return Check(limit, low, high)


def requests_of(row: Row) -> int:
    """Requests that should have been completed; one that was never made counts as failed."""
    return max(row.requests, row.completed + row.failed)


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
    low = max((value for at, value in known if at <= wanted + 1e-9), default=0.0)
    high = min((value for at, value in known if at >= wanted - 1e-9), default=math.inf)
    return low, max(low, high)
