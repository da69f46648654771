"""GenAI-Perf's `*_genai_perf.json`: metrics as AIPerf has them, another way to say what was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamoc.launcher.results.importers.aiperf import figures
from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.launcher.results.importers.reading import Fields, look, needed, number, row_from, text, whole
from dynamoc.launcher.results.row import Row

NAME = "genai-perf"
SUFFIX = "_genai_perf.json"


def matches(data: Any) -> bool:
    """Metrics at the top, and a configuration that is neither of AIPerf's."""
    config = look(data, "input_config")
    return look(data, "request_throughput", "avg") is not None and isinstance(config, dict) and "phases" not in config


def rows(path: Path, data: Fields) -> Iterator[Row]:
    """One. How long it took is not said: it follows from the requests and how many there were a second."""
    config = data["input_config"]
    per_s = needed(path, data, "request_throughput", "avg")
    completed = _completed(path, data)
    stimulus = look(config, "perf_analyzer", "stimulus") or config
    fields = {
        "point": path.parent.name,
        "run": path.parent.name,
        "model": text(config, "model_names", 0) or text(config, "model", 0),
        "tool": NAME,
        "tool_version": text(config, "version"),
        "isl_asked": _either(config, ("input", "synthetic_tokens", "mean"), ("synthetic_input_tokens_mean",)),
        "osl_asked": _either(config, ("input", "output_tokens", "mean"), ("output_tokens_mean",)),
        "concurrency": whole(stimulus, "concurrency"),
        "request_rate": number(stimulus, "request_rate"),
        "warmup_requests": _either(config, ("perf_analyzer", "warmup_request_count"), ("warmup_request_count",)),
        **figures(data),
        "requests": completed,
        "completed": completed,
        "failed": 0,
        "duration_s": completed / per_s if per_s else 0.0,
        "goodput_per_s": number(data, "request_goodput", "avg"),
    }
    yield row_from(path, fields)


def _completed(path: Path, data: Fields) -> int:
    """As it says, or, as 0.0.8 does not, as many as Perf Analyzer's own file beside it lists."""
    told = whole(data, "request_count", "avg")
    if told is not None:
        return told
    beside = path.with_name(path.name.replace(SUFFIX, ".json"))
    try:
        requests = look(json.loads(beside.read_text()), "experiments", 0, "requests")
    except (OSError, ValueError) as error:
        raise ImportFault(f"{path}: does not say how many requests there were, nor does {beside}: {error}") from error
    if not isinstance(requests, list) or beside == path:
        raise ImportFault(f"{path}: does not say how many requests there were, nor does {beside}")
    return len(requests)


def _either(config: Fields, *paths: tuple[str, ...]) -> int | None:
    """The first that is there and meant; it writes -1 for what was not given."""
    found = (whole(config, *path) for path in paths)
    return next((value for value in found if value is not None and value >= 0), None)
