"""The canonical result row: what one load point came to, the same whatever tool measured it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

PERCENTILES = (50, 90, 95, 99)


class RowError(Exception):
    """A results file is not one; the message names it."""


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A distribution over the requests that were completed; a percentile the tool does not give is None."""

    avg: float
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One load point as measured. Lengths in tokens, times in ms unless the name says otherwise, wall clock in Unix s.

    TPOT is one mean per request, (e2e - TTFT) / (osl - 1); ITL are the gaps between successive tokens of all requests.
    What a tool does not tell is None.
    """

    point: str
    run: str
    model: str
    tool: str
    tool_version: str
    started: float | None
    ended: float | None
    isl_asked: int | None
    osl_asked: int | None
    isl: float
    osl: float
    """Means over the completed requests, as the server counted."""
    concurrency: int | None
    """Requests in flight that were asked for; None where arrivals have a rate alone."""
    request_rate: float | None
    """Arrivals per second that were asked for; None where each request follows an answer."""
    effective_concurrency: float | None
    """Requests in flight on the average over `duration_s`."""
    requests: int
    completed: int
    failed: int
    duration_s: float
    """From the first request of the point to its last answer; warm-up is before."""
    requests_per_s: float
    output_tokens_per_s: float
    input_tokens_per_s: float
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    goodput_per_s: float | None = None
    """Requests per second that met the tool's own targets."""
    complete: bool = True
    """Whether every request of the point was made and answered, well or not, before its deadline."""
    client_limited: bool = False
    """Whether the tool was as busy as it can be: the figures then say more of it than of the pipeline."""
    client_limit: str | None = None
    """What of it was: the figures of the test that found so."""
    gpus_allocated: int | None = None
    """Set aside for the run, used or not."""
    gpus_working: int | None = None
    """Those that a process of the plan uses."""
    idle_workers: tuple[str, ...] | None = None
    """Workers that did nothing for any request of the point."""
    transports: tuple[str, ...] | None = None
    """What moved KV from prefill to decode while the point ran."""
    transports_declared: tuple[str, ...] | None = None
    """What the plan says moves it."""
    warmup_requests: int | None = None
    """Requests made before those that count."""
    e2e_drift: float | None = None
    """How much longer requests took at the end than at the beginning, as a share (`drift_of`)."""
    throttled_share: float | None = None
    """Share of the GPUs' time in which they ran slower to save power or to cool."""
    synthetic: tuple[str, ...] = ()
    """Settings that make up how many draft tokens are accepted."""
    labels: dict[str, str] = {}


def spread_of(values: Iterable[float]) -> Spread | None:
    """Mean and percentiles, interpolated between neighbours as numpy does; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p90, p95, p99 = (round(percentile(ordered, share), 4) for share in PERCENTILES)
    return Spread(avg=round(math.fsum(ordered) / len(ordered), 4), p50=p50, p90=p90, p95=p95, p99=p99)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of values in ascending order, at least one."""
    place = (len(ordered) - 1) * share / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def encode_row(row: Row) -> bytes:
    """Indented JSON with a newline."""
    return msgspec.json.format(msgspec.json.encode(row), indent=2) + b"\n"


def read_row(path: Path) -> Row:
    """A results file; RowError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Row)
    except (OSError, msgspec.MsgspecError) as error:
        raise RowError(f"{path}: {error}") from error


def rows_of(folder: Path) -> tuple[Row, ...]:
    """Every row of a run folder, in the order of their names; RowError."""
    return tuple(read_row(path) for path in sorted((folder / "results").glob("*.json")))
