"""AIPerf's means over repeated runs: of one cell with confidence, and of all cells of a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamoc.launcher.results.importers.aiperf import NAME, figures
from dynamoc.launcher.results.importers.reading import Fields, look, needed, number, row_from, text, whole
from dynamoc.launcher.results.row import Row

KINDS = ("confidence", "sweep")


def matches(data: Any) -> bool:
    """Either kind."""
    return _kind(data) in KINDS


def rows(path: Path, data: Fields) -> Iterator[Row]:
    """One for each cell: means of the runs' own statistics."""
    if _kind(data) == "confidence":
        parameters = look(data, "metadata", "variation_values") or {}
        yield _row(path, data, parameters, look(data, "metrics") or {}, whole(data, "metadata", "num_successful_runs"))
        return
    for cell in data.get("per_combination_metrics") or ():
        runs = whole(data, "metadata", "num_trials_per_value")
        yield _row(path, data, look(cell, "parameters") or {}, look(cell, "metrics") or {}, runs)


def _kind(data: Any) -> Any:
    return look(data, "metadata", "aggregation_type") or look(data, "aggregation_type")


def _row(path: Path, data: Fields, parameters: Fields, metrics: Fields, runs: int | None) -> Row:
    summary: dict[str, dict[str, float]] = {}
    for name, found in metrics.items():
        tag, _, statistic = name.rpartition("_")
        mean = number(found, "mean")
        if mean is not None:
            summary.setdefault(tag, {})[statistic] = mean
    completed = round(needed(path, summary, "request_count", "avg"))
    failed = whole(summary, "error_request_count", "avg") or 0
    settings = {name.rpartition(".")[2]: value for name, value in parameters.items()}
    label = ",".join(f"{name}={value}" for name, value in parameters.items())
    fields = {
        "point": text(data, "metadata", "variation_label") or label or path.parent.name,
        "run": path.parent.parent.name,
        "model": text(data, "metadata", "model"),
        "tool": NAME,
        "tool_version": text(data, "aiperf_version"),
        "concurrency": whole(settings, "concurrency"),
        "request_rate": number(settings, "rate"),
        **figures(summary),
        "requests": completed + failed,
        "completed": completed,
        "failed": failed,
        "duration_s": needed(path, summary, "benchmark_duration", "avg"),
        "goodput_per_s": number(summary, "goodput", "avg"),
        "labels": {"mean_of_runs": str(runs)},
    }
    return row_from(path, fields)
