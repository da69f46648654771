"""AIPerf's summary of a run, `profile_export_aiperf.json`: schema 1.x, and as it was before it had one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from dynamoc.launcher.results.importers.reading import Fields, look, needed, number, row_from, spread, text, whole
from dynamoc.launcher.results.row import Row

NAME = "aiperf"
FILLED = 0.9
WAVES = 3
MICRO = 1e6
NS = 1e9
THROTTLING = "nvidia_power_violation"


def matches(data: Any) -> bool:
    """Both schemas have metrics at the top, and how their load was asked for."""
    known = look(data, "request_throughput") is not None and isinstance(look(data, "input_config"), dict)
    return known and ("aiperf_version" in data or "min_request_timestamp" in data)


def rows(path: Path, data: Fields) -> Iterator[Row]:
    """One."""
    completed = round(needed(path, data, "request_count", "avg"))
    failed = whole(data, "error_request_count", "avg") or 0
    asked = _asked(data)
    duration = number(data, "benchmark_duration", "avg") or _span_s(data)
    limit = _limit(data, asked, completed)
    fields = {
        "point": text(data, "run_info", "variation_label") or path.parent.name,
        "run": text(data, "run_info", "benchmark_id") or path.parent.name,
        "tool": NAME,
        "tool_version": text(data, "aiperf_version"),
        "started": _clock(data, "start_time"),
        "ended": _clock(data, "end_time"),
        "requests": completed + failed,
        **asked,
        **figures(data),
        "completed": completed,
        "failed": failed,
        "duration_s": needed(path, {"benchmark_duration": duration}, "benchmark_duration"),
        "goodput_per_s": number(data, "goodput", "avg"),
        "complete": data.get("is_complete") is not False and not data.get("was_cancelled"),
        "client_limited": limit is not None,
        "client_limit": limit,
        "throttled_share": _throttled(data, duration),
    }
    yield row_from(path, fields)


def figures(data: Fields) -> dict[str, object]:
    """What a summary, of AIPerf or of GenAI-Perf, says of a run's requests."""
    per_s = number(data, "request_throughput", "avg") or 0.0
    isl = number(data, "input_sequence_length", "avg") or 0.0
    into = number(data, "input_token_throughput", "avg")
    return {
        "isl": isl,
        "osl": number(data, "output_sequence_length", "avg") or 0.0,
        "effective_concurrency": number(data, "effective_concurrency", "avg"),
        "requests_per_s": per_s,
        "output_tokens_per_s": number(data, "output_token_throughput", "avg") or 0.0,
        "input_tokens_per_s": per_s * isl if into is None else into,
        "ttft_ms": spread(look(data, "time_to_first_token")),
        "tpot_ms": spread(look(data, "inter_token_latency")),
        "itl_ms": spread(look(data, "inter_chunk_latency")),
        "e2e_ms": spread(look(data, "request_latency")),
    }


def _asked(data: Fields) -> dict[str, Any]:
    config = data["input_config"]
    return _asked_before(config) if "loadgen" in config else _asked_now(config)


def _asked_now(config: Fields) -> dict[str, Any]:
    phases = [phase for phase in config.get("phases") or () if isinstance(phase, dict)]
    warmup = [phase for phase in phases if phase.get("kind") == "warmup"]
    measured = next((phase for phase in phases if phase.get("kind") != "warmup"), {})
    prompts = look(config, "datasets", 0, "prompts")
    isl = _length(look(prompts, "isl"))
    prefix = whole(config, "datasets", 0, "prefix_prompts", "length") or 0
    requests = whole(measured, "requests")
    return {
        "model": text(config, "models", "items", 0, "name"),
        "isl_asked": None if isl is None else isl + prefix,
        "osl_asked": _length(look(prompts, "osl")),
        "concurrency": whole(measured, "concurrency"),
        "request_rate": number(measured, "rate"),
        "warmup_requests": sum(whole(phase, "requests") or 0 for phase in warmup),
        **({} if requests is None else {"requests": requests}),
    }


def _asked_before(config: Fields) -> dict[str, Any]:
    requests = whole(config, "loadgen", "request_count")
    return {
        "model": text(config, "endpoint", "model_names", 0),
        "isl_asked": whole(config, "input", "prompt", "input_tokens", "mean"),
        "osl_asked": whole(config, "input", "prompt", "output_tokens", "mean"),
        "concurrency": whole(config, "loadgen", "concurrency"),
        "request_rate": number(config, "loadgen", "request_rate"),
        "warmup_requests": whole(config, "loadgen", "warmup_request_count"),
        **({} if requests is None else {"requests": requests}),
    }


def _length(found: Any) -> int | None:
    return whole({"is": found}, "is") if not isinstance(found, dict) else whole(found, "value") or whole(found, "mean")


def _limit(data: Fields, asked: dict[str, Any], completed: int) -> str | None:
    """Whether the client was the limit, by what AIPerf says of itself."""
    concurrency, seen = asked.get("concurrency"), number(data, "effective_concurrency", "p50")
    closed = concurrency if isinstance(concurrency, int) and asked.get("request_rate") is None else None
    if closed is not None and seen is not None and completed >= WAVES * closed and seen < FILLED * closed:
        return f"{seen:g} requests in flight (p50) < {FILLED:g} x {closed} asked for"
    late, first = number(data, "credit_to_start_latency", "p95"), number(data, "time_to_first_token", "p50")
    if late is not None and first is not None and late > first:
        return f"requests were sent {late:.1f} ms late (p95) > TTFT of {first:.1f} ms (p50)"
    return None


def _throttled(data: Fields, duration_s: float | None) -> float | None:
    """Of the time of all GPUs with telemetry, the share in which power held them back."""
    endpoints = look(data, "telemetry_data", "endpoints") or {}
    gpus = [gpu for endpoint in endpoints.values() for gpu in (look(endpoint, "gpus") or {}).values()]
    held = [us for gpu in gpus if (us := number(gpu, "metrics", THROTTLING, "avg")) is not None]
    return sum(held) / MICRO / duration_s / len(held) if held and duration_s else None


def _span_s(data: Fields) -> float | None:
    first, last = number(data, "min_request_timestamp", "avg"), number(data, "max_response_timestamp", "avg")
    return None if first is None or last is None else (last - first) / NS


def _clock(data: Fields, name: str) -> float | None:
    """Unix time of a local date, as it is written."""
    try:
        return datetime.fromisoformat(text(data, name)).timestamp()
    except ValueError:
        return None
