"""guidellm's report: several benchmarks in one file, metrics apart by how requests ended.

In 0.3 a report had no version, and each benchmark told what was asked for; in 0.5 `args` tell it, in 0.8 `config`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.launcher.results.importers.reading import Fields, look, needed, number, row_from, spread, text, whole
from dynamoc.launcher.results.row import Row, Spread

NAME = "guidellm"
REPORT = (1, 2)
BENCHMARK = "generative_benchmark"
WARMUPS = ("number", "duration")
MILLI = 1000.0


def matches(data: Any) -> bool:
    """A report of any version."""
    told = look(data, "metadata", "guidellm_version") or look(data, "benchmarks", 0, "type_") == BENCHMARK
    return bool(told) and isinstance(look(data, "benchmarks"), list)


def rows(path: Path, data: Fields) -> Iterator[Row]:
    """One for each benchmark; ImportFault for a report of a version that is not known."""
    version = look(data, "metadata", "version")
    if version not in REPORT and "metadata" in data:
        raise ImportFault(f"{path}: a report of version {version}; known are {REPORT[0]} and {REPORT[1]}")
    for number_, benchmark in enumerate(data["benchmarks"]):
        yield _row(path, data, benchmark, number_)


def _row(path: Path, data: Fields, benchmark: Fields, index: int) -> Row:
    metrics, config = look(benchmark, "metrics"), look(benchmark, "config") or look(benchmark, "args")
    totals = look(metrics, "request_totals") or look(benchmark, "request_totals")
    place = f"{path}: benchmarks[{index}]"
    strategy = look(config, "strategy")
    model, lengths = _asked(data, benchmark)
    completed = round(needed(place, totals, "successful"))
    failed = round(needed(place, totals, "errored"))
    duration = needed(place, benchmark, "duration")
    concurrency = whole(strategy, "streams")
    rate = number(strategy, "rate")
    isl, osl = (
        number(metrics, name, "successful", "mean") or 0.0 for name in ("prompt_token_count", "output_token_count")
    )
    return row_from(
        place,
        {
            "point": f"c{concurrency}" if concurrency is not None else text(strategy, "type_") or f"benchmark-{index}",
            "run": text(config, "run_id") or text(benchmark, "run_id") or path.stem,
            "model": model,
            "tool": NAME,
            "tool_version": text(data, "metadata", "guidellm_version"),
            "started": number(benchmark, "start_time"),
            "ended": number(benchmark, "end_time"),
            "isl_asked": whole(lengths, "prompt_tokens"),
            "osl_asked": whole(lengths, "output_tokens"),
            "isl": isl,
            "osl": osl,
            "concurrency": concurrency,
            "request_rate": rate,
            "effective_concurrency": number(metrics, "request_concurrency", "successful", "mean"),
            "requests": completed + failed + (whole(totals, "incomplete") or 0),
            "completed": completed,
            "failed": failed,
            "duration_s": duration,
            "requests_per_s": number(metrics, "requests_per_second", "successful", "mean") or 0.0,
            "output_tokens_per_s": completed * osl / duration if duration else 0.0,
            "input_tokens_per_s": completed * isl / duration if duration else 0.0,
            "ttft_ms": _spread(metrics, "time_to_first_token_ms", completed),
            "tpot_ms": _spread(metrics, "inter_token_latency_ms", completed),
            "e2e_ms": _spread(metrics, "request_latency", completed, MILLI),
            "warmup_requests": _warmup(benchmark),
            "labels": {"strategy": text(strategy, "type_")},
        },
    )


def _asked(data: Fields, benchmark: Fields) -> tuple[str, Fields]:
    """The model, and the lengths of requests as far as the data's own words tell them."""
    spec = look(data, "config", "spec") or look(data, "config") or look(data, "args")
    model = text(spec, "backend", "model") or text(spec, "model")
    source = look(spec, "data", 0)
    if spec is None:
        model, source = text(benchmark, "worker", "backend_model"), look(benchmark, "request_loader", "data")
    return model or text(benchmark, "config", "backend", "model"), _words(source) if isinstance(source, str) else source


def _words(source: str) -> Fields:
    """Of `{"prompt_tokens": 64}` or `prompt_tokens=64,...`; of a name of data, nothing."""
    try:
        found = json.loads(source)
    except json.JSONDecodeError:
        pairs = (part.strip().partition("=") for part in source.split(","))
        return {name: int(value) for name, _, value in pairs if value.isascii() and value.isdigit()}
    return found if isinstance(found, dict) else {}


def _warmup(benchmark: Fields) -> int | None:
    """None was made, or some and it is not said how many requests they were."""
    told = (look(benchmark, "warmup_duration"), *(look(benchmark, "args", f"warmup_{of}") for of in WARMUPS))
    return None if any(told) else 0


def _spread(metrics: Any, name: str, completed: int, scale: float = 1.0) -> Spread | None:
    """Of successful requests; its zeros where there was none are no measurement."""
    found = look(metrics, name, "successful")
    if not completed or not isinstance(found, dict):
        return None
    return spread({**(look(found, "percentiles") or {}), "avg": found.get("mean")}, scale)
