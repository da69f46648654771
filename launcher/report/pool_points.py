"""Rows that measured one pool alone, as points of its curve: those whose label `role` says so."""

from __future__ import annotations

from collections.abc import Sequence

from dynamoc.launcher.analysis.pools import PoolPoint
from dynamoc.launcher.report.points import Measured
from dynamoc.launcher.results.row import Row
from dynamoc.launcher.results.verdict import Standing

MILLI = 1000.0
KV_USAGE = "kv_usage"


def pools_of(points: Sequence[Measured]) -> tuple[tuple[PoolPoint, ...], tuple[PoolPoint, ...]]:
    """Prefill's and decode's, of what is not invalid."""
    rows = [row for point in points if point.verdict.standing is not Standing.INVALID for row in point.rows]
    prefill = (_prefill(row) for row in rows if row.labels.get("role") == "prefill")
    decode = (_decode(row) for row in rows if row.labels.get("role") == "decode")
    return tuple(point for point in prefill if point), tuple(point for point in decode if point)


def _prefill(row: Row) -> PoolPoint | None:
    if row.ttft_ms is None or not row.gpus_allocated or row.ttft_ms.avg <= 0 or row.requests_per_s <= 0:
        return None
    batch = row.requests_per_s * row.ttft_ms.avg / MILLI
    return PoolPoint(row.gpus_allocated, _curve(row), row.isl, row.ttft_ms.avg, batch)


def _decode(row: Row) -> PoolPoint | None:
    if row.tpot_ms is None or not row.gpus_allocated or row.tpot_ms.avg <= 0 or row.output_tokens_per_s <= 0:
        return None
    batch = row.output_tokens_per_s * row.tpot_ms.avg / MILLI
    return PoolPoint(row.gpus_allocated, _curve(row), row.isl + row.osl / 2, row.tpot_ms.avg, batch)


def _curve(row: Row) -> str:
    """What does not change along it; how many are at once follows from the rate, by Little's law."""
    return f"KV {row.labels[KV_USAGE]}" if KV_USAGE in row.labels else f"{row.concurrency} at once"
