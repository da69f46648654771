"""What one worker of a pool was seen to carry: alone, or as one of a whole deployment that kept its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamoc.compiler.campaign.limits import Limit
from dynamoc.launcher.analysis.pools import MILLI, Pool, PoolPoint
from dynamoc.launcher.analysis.sla import check_limits
from dynamoc.launcher.report.points import Measured
from dynamoc.launcher.report.pool_points import pools_of
from dynamoc.launcher.results.row import Row
from dynamoc.launcher.results.verdict import Standing
from dynamoc.launcher.sizing.workers import Pair, PoolSize


@dataclass(frozen=True, slots=True)
class Timing:
    """By which statistic a pool's time is held, and how long it may be, in ms."""

    metric: str
    statistic: str = "avg"
    limit_ms: float = math.inf


def pools_seen(
    points: Sequence[Measured], pairs: Mapping[str, Pair], ttft: Timing, tpot: Timing
) -> tuple[Pool, Pool, bool]:
    """Both pools, and whether any of it comes from rows that measured one pool alone: these tell means only.

    A worker of a deployment carried its share of the deployment's rate, and might have carried more: what the other
    pool kept it from is not known, and not guessed.
    """
    alone_prefill, alone_decode = pools_of(points)
    prefill, decode = list(alone_prefill), list(alone_decode)
    for point in points:
        pair = pairs.get(point.deployment)
        if pair is None or point.verdict.standing is not Standing.VALID:
            continue
        for row in point.rows:
            prefill += _prefill(row, point, pair.prefill, ttft)
            decode += _decode(row, point, pair.decode, tpot)
    return Pool("prefill", tuple(prefill)), Pool("decode", tuple(decode)), bool(alone_prefill or alone_decode)


def _prefill(row: Row, point: Measured, pool: PoolSize, ttft: Timing) -> list[PoolPoint]:
    time_ms = _time_ms(row, ttft)
    rate = row.requests_per_s / pool.workers
    return _points(pool, point, row, row.isl_asked or row.isl, time_ms, rate)


def _decode(row: Row, point: Measured, pool: PoolSize, tpot: Timing) -> list[PoolPoint]:
    time_ms = _time_ms(row, tpot)
    context = (row.isl_asked or row.isl) + (row.osl_asked or row.osl) / 2
    return _points(pool, point, row, context, time_ms, row.output_tokens_per_s / pool.workers)


def _points(pool: PoolSize, point: Measured, row: Row, tokens: float, time_ms: float, rate: float) -> list[PoolPoint]:
    """One, or none where its time is not known. What is at once follows from rate and time, so that the rate stays."""
    if not 0 < time_ms < math.inf or rate <= 0:
        return []
    load = f"{row.concurrency or 'all'} in flight, {row.request_rate or 'no'} rate"
    return [PoolPoint(max(1, pool.gpus_each), f"{point.deployment} {load}", tokens, time_ms, rate * time_ms / MILLI)]


def _time_ms(row: Row, timing: Timing) -> float:
    """The most that it may have been; requests that failed took for ever."""
    return check_limits(row, (Limit(timing.metric, timing.statistic, "<=", timing.limit_ms),))[0].high
