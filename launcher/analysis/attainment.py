"""Which share of the requests met the targets, from the requests themselves. A request that failed took for ever."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dynamoc.compiler.campaign.limits import SPREADS, Limit
from dynamoc.launcher.load.point import RequestRecord

NEVER = math.inf


def time_of(record: RequestRecord, metric: str) -> float:
    """One request's `ttft_ms`, `tpot_ms`, `e2e_ms` or longest gap (`itl_ms`); infinite if it failed."""
    if record.error is not None or record.ttft_ms is None:
        return NEVER
    if metric == "ttft_ms":
        return record.ttft_ms
    if metric == "e2e_ms":
        return record.e2e_ms
    if metric == "itl_ms":
        gaps = (later - earlier for earlier, later in zip(record.token_ms, record.token_ms[1:], strict=False))
        return max(gaps, default=0.0)
    return (record.e2e_ms - record.ttft_ms) / (record.output_tokens - 1) if record.output_tokens > 1 else 0.0


def statistic_of(values: Sequence[float], statistic: str) -> float:
    """Mean or percentile, of which infinite ones are a part; infinite of nothing."""
    ordered = sorted(values)
    if not ordered or statistic == "avg":
        return math.fsum(ordered) / len(ordered) if ordered else NEVER
    place = (len(ordered) - 1) * float(statistic.removeprefix("p")) / 100
    below = math.floor(place)
    part = place - below
    if part == 0:
        return ordered[below]
    return NEVER if math.isinf(ordered[below + 1]) else ordered[below] + (ordered[below + 1] - ordered[below]) * part


def attainment(records: Sequence[RequestRecord], asked: int, metric: str, most_ms: float) -> float:
    """The share of `asked` requests that kept one limit, each for itself."""
    return sum(time_of(record, metric) <= most_ms for record in records) / asked if asked else 0.0


def goodput_per_s(records: Sequence[RequestRecord], limits: Sequence[Limit], duration_s: float) -> float:
    """Requests per second each of which kept every limit of a time."""
    times = [limit for limit in limits if limit.metric in SPREADS]
    good = sum(all(limit.holds(time_of(record, limit.metric)) for limit in times) for record in records)
    return good / duration_s
