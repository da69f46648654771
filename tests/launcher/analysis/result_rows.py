"""Rows for tests of what is made of rows."""

from __future__ import annotations

from typing import Any

from dynamoc.launcher.results.row import Row, Spread


def spread(value: float, **percentiles: float) -> Spread:
    """All percentiles alike but those given."""
    return Spread(**{"avg": value, "p50": value, "p90": value, "p95": value, "p99": value, **percentiles})


def row(point: str = "c1", **fields: Any) -> Row:
    """A good point of 10 requests in 5 s, 20 tokens each, on 4 GPUs."""
    facts: dict[str, Any] = {
        "point": point,
        "run": "run",
        "model": "tiny",
        "tool": "builtin",
        "tool_version": "1",
        "started": 100.0,
        "ended": 105.0,
        "isl_asked": 8,
        "osl_asked": 20,
        "isl": 8.0,
        "osl": 20.0,
        "concurrency": 4,
        "request_rate": None,
        "effective_concurrency": 4.0,
        "requests": 10,
        "completed": 10,
        "failed": 0,
        "duration_s": 5.0,
        "requests_per_s": 2.0,
        "output_tokens_per_s": 40.0,
        "input_tokens_per_s": 16.0,
        "ttft_ms": spread(100.0),
        "tpot_ms": spread(20.0),
        "itl_ms": spread(20.0),
        "e2e_ms": spread(480.0),
        "gpus_allocated": 4,
        "gpus_working": 4,
    }
    return Row(**(facts | fields))
