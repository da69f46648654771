"""The configuration AIPerf is given for a load point: its YAML, schema 2.0."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import yaml

from dynamoc.compiler.load import FURTHEST
from dynamoc.launcher.load.aiperf_hub import NAME
from dynamoc.launcher.load.point import LoadPoint, Target

SCHEMA = "2.0"
CORES_OF_WORKERS = 0.75
WORKERS_OF_A_RECORD_PROCESSOR = 2


def aiperf_config(point: LoadPoint, target: Target, trace: Path | None, requests: int) -> str:
    """The same load as the built-in tool makes: raw completions of exact length, greedy, counted by the server.

    `trace` is the file of the requests that are replayed, as many as `requests`, their times as they are to be kept.
    """
    workers = _workers(point.concurrency or requests)
    benchmark = {
        "models": [target.model],
        "endpoint": {
            "urls": [target.url],
            "type": "completions",
            "streaming": True,
            "use_server_token_count": True,
            "timeout": point.deadline_s,
            "extra": {"ignore_eos": True, "temperature": 0.0},
        },
        "datasets": [_synthetic(point, requests) if trace is None else _replayed(point, trace)],
        "phases": [*_warmup(point), {"name": "profiling", **_arrivals(point, requests)}],
        "tokenizer": {"name": NAME},
        "gpu_telemetry": {"enabled": False},
        "server_metrics": {"enabled": False},
        "runtime": {
            "ui": "none",
            "workers": workers,
            "record_processors": max(1, workers // WORKERS_OF_A_RECORD_PROCESSOR),
        },
    }
    text: str = yaml.safe_dump({"schemaVersion": SCHEMA, "benchmark": benchmark}, sort_keys=False)
    return text


def _synthetic(point: LoadPoint, requests: int) -> dict[str, Any]:
    """As many prompts as there are requests, so that none is met again in a cache of prefixes."""
    common = min(round(point.isl * point.shared_prefix), point.isl - 1)
    prompts = {
        "isl": _length(point.isl - common, point.isl_stddev),
        "osl": _length(point.osl, point.osl_stddev),
    }
    dataset: dict[str, Any] = {
        "name": "main",
        "type": "synthetic",
        "entries": requests + point.warmup_requests,
        "random_seed": point.seed,
        "prompts": prompts,
    }
    if common:
        dataset["prefix_prompts"] = {"pool_size": point.prefixes, "length": common}
    return dataset


def _replayed(point: LoadPoint, trace: Path) -> dict[str, Any]:
    assert point.trace is not None
    block = point.trace.block_tokens
    return {"name": "main", "type": "file", "path": str(trace), "format": "mooncake_trace", "block_size": block}


def _length(mean: int, stddev: float) -> int | dict[str, float]:
    """Within the bounds that were proved to fit."""
    if not stddev:
        return mean
    furthest = FURTHEST * stddev
    return {"mean": mean, "stddev": stddev, "min": max(1, round(mean - furthest)), "max": round(mean + furthest)}


def _warmup(point: LoadPoint) -> list[dict[str, Any]]:
    if not point.warmup_requests or point.trace is not None:
        return []
    concurrency = min(point.concurrency or point.warmup_requests, point.warmup_requests)
    return [
        {
            "name": "warmup",
            "kind": "warmup",
            "type": "concurrency",
            "concurrency": concurrency,
            "requests": point.warmup_requests,
        }
    ]


def _arrivals(point: LoadPoint, requests: int) -> dict[str, Any]:
    if point.trace is not None:
        limit = {} if point.concurrency is None else {"concurrency": point.concurrency}
        return {"type": "fixed_schedule", "auto_offset": True, **limit}
    if point.rate is None:
        return {
            "type": "concurrency",
            "concurrency": min(point.concurrency or requests, requests),
            "requests": requests,
        }
    limit = {} if point.concurrency is None else {"concurrency": point.concurrency}
    return {"type": "poisson", "rate": point.rate, "requests": requests, **limit}


def _workers(in_flight: int) -> int:
    """By the cores this process may use: a job seldom has the whole node that AIPerf would count."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(in_flight, math.floor(cores * CORES_OF_WORKERS) - 1))
