"""What is known of one request, and what requests together come to: the same arithmetic whatever tool made them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import msgspec

from dynamoc.launcher.results.row import spread_of

MILLI = 1000.0
SHORTEST_S = 1e-6
LEAST_OF_A_HALF = 8
SIGNIFICANT = 4.0


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request of a point. `started` is Unix time; the rest of the times are ms since the request was sent.

    `token_ms` has one entry for each piece of the stream: a token, or several where the server sent them at once.
    """

    index: int
    started: float
    e2e_ms: float
    input_tokens: int
    output_tokens: int
    ttft_ms: float | None = None
    token_ms: tuple[float, ...] = ()
    error: str | None = None


def figures_of(records: Sequence[RequestRecord], started: float, ended: float) -> dict[str, object]:
    """The fields of a row that records tell; `started` and `ended` stand in where there is no record."""
    good = [record for record in records if record.error is None]
    duration = _duration_s(records, ended - started)
    busy_ms = math.fsum(record.e2e_ms for record in records)
    return {
        "started": round(started, 3),
        "ended": round(ended, 3),
        "isl": _mean([record.input_tokens for record in good]),
        "osl": _mean([record.output_tokens for record in good]),
        "effective_concurrency": round(busy_ms / MILLI / duration, 3),
        "completed": len(good),
        "failed": len(records) - len(good),
        "duration_s": round(duration, 6),
        "requests_per_s": round(len(good) / duration, 4),
        "output_tokens_per_s": round(sum(record.output_tokens for record in good) / duration, 3),
        "input_tokens_per_s": round(sum(record.input_tokens for record in good) / duration, 3),
        "ttft_ms": spread_of(record.ttft_ms for record in good if record.ttft_ms is not None),
        "tpot_ms": spread_of(tpot for record in good if (tpot := _tpot_ms(record)) is not None),
        "itl_ms": spread_of(gap for record in good for gap in _gaps(record)),
        "e2e_ms": spread_of(record.e2e_ms for record in good),
    }


def in_flight_p50(records: Sequence[RequestRecord]) -> float:
    """How many requests were in flight for half of the time at least; 0 of none."""
    spans = [(record.started, record.started + record.e2e_ms / MILLI) for record in records]
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    lasted: dict[int, float] = {}
    count = 0
    for (at, change), (until, _) in itertools.pairwise(changes):
        count += change
        lasted[count] = lasted.get(count, 0.0) + until - at
    half, passed = sum(lasted.values()) / 2, 0.0
    for count in sorted(lasted):
        passed += lasted[count]
        if passed >= half:
            return float(count)
    return 0.0


def drift_of(records: Sequence[RequestRecord], ramp: int) -> float | None:
    """How much longer requests of the second half took than those of the first, as a share of the first.

    The `ramp` first and last requests, which fill and empty the pipeline, are left out. 0 where the means differ by
    less than `SIGNIFICANT` standard errors (Welch); None where a half has too few requests to tell.
    """
    took = [record.e2e_ms for record in sorted(records, key=lambda record: record.started) if record.error is None]
    took = took[ramp : len(took) - ramp]
    first, second = took[: len(took) // 2], took[len(took) // 2 :]
    if len(first) < LEAST_OF_A_HALF:
        return None
    before, after = statistics.fmean(first), statistics.fmean(second)
    error = math.sqrt(statistics.variance(first) / len(first) + statistics.variance(second) / len(second))
    if before <= 0 or abs(after - before) <= SIGNIFICANT * error:
        return 0.0
    return round((after - before) / before, 4)


def _duration_s(records: Sequence[RequestRecord], otherwise: float) -> float:
    """From the first request to the last answer."""
    begins = [record.started for record in records]
    ends = [record.started + record.e2e_ms / MILLI for record in records]
    return max(max(ends) - min(begins) if begins else otherwise, SHORTEST_S)


def _tpot_ms(record: RequestRecord) -> float | None:
    if record.ttft_ms is None or record.output_tokens < 2:
        return None
    return (record.e2e_ms - record.ttft_ms) / (record.output_tokens - 1)


def _gaps(record: RequestRecord) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(record.token_ms)]


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 3) if values else 0.0
