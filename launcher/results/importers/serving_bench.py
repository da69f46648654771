"""The flat result that `vllm bench serve` and SGLang's `bench_serving` write, the second a relative of the first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from dynamoc.launcher.results.importers.reading import STATISTICS, Fields, look, needed, number, row_from, spread, text
from dynamoc.launcher.results.importers.reading import whole as count
from dynamoc.launcher.results.row import Row, Spread

VLLM, SGLANG = "vllm-bench", "sglang-bench"
OF_BOTH = ("completed", "total_output_tokens", "mean_ttft_ms", "request_throughput", "duration")
DATE = "%Y%m%d-%H%M%S"
GPUS = "gpus"
"""The name under which `--metadata gpus=8` says how many there were."""


def matches(data: Any) -> bool:
    """One object of either."""
    return isinstance(data, dict) and all(name in data for name in OF_BOTH)


def rows(path: Path | str, data: Fields) -> Iterator[Row]:
    """One."""
    sglang = "total_output_tokens_retokenized" in data or "random_input_len" in data
    completed = round(needed(path, data, "completed"))
    duration = needed(path, data, "duration")
    asked = count(data, "num_prompts")
    failed = count(data, "failed")
    if failed is None:
        failed = 0 if asked is None else max(asked - completed, 0)
    into, out = number(data, "total_input_tokens") or 0.0, needed(path, data, "total_output_tokens")
    ended = _ended(data)
    fields = {
        "point": text(data, "label") or text(data, "tag") or _load(data),
        "run": Path(path).stem if isinstance(path, Path) else path,
        "model": text(data, "model_id") or text(data, "server_info", "model_path"),
        "tool": SGLANG if sglang else VLLM,
        "tool_version": text(data, "server_info", "version"),
        "started": None if ended is None else ended - duration,
        "ended": ended,
        "isl_asked": count(data, "random_input_len") if _exact(data) else None,
        "osl_asked": count(data, "random_output_len") if _exact(data) else None,
        "isl": into / completed if completed else 0.0,
        "osl": out / completed if completed else 0.0,
        "concurrency": count(data, "max_concurrency"),
        "request_rate": number(data, "request_rate"),
        "effective_concurrency": number(data, "concurrency"),
        "requests": completed + failed if asked is None else asked,
        "completed": completed,
        "failed": failed,
        "duration_s": duration,
        "requests_per_s": needed(path, data, "request_throughput"),
        "output_tokens_per_s": needed(path, data, "output_throughput"),
        "input_tokens_per_s": into / duration if duration else 0.0,
        "ttft_ms": _spread(data, "ttft"),
        "tpot_ms": _spread(data, "tpot"),
        "itl_ms": _spread(data, "itl"),
        "e2e_ms": _spread(data, "e2el") or _spread(data, "e2e_latency"),
        "goodput_per_s": number(data, "request_goodput"),
        "gpus_allocated": count(data, GPUS) or _number_in(text(data, GPUS)),
    }
    yield row_from(path, fields)


def _exact(data: Fields) -> bool:
    """With a range, lengths are spread, and what was asked for is no mean."""
    return number(data, "random_range_ratio") in (None, 1.0)


def _spread(data: Fields, name: str) -> Spread | None:
    """`p50` is the median; other percentiles are there if they were asked for."""
    found = {"avg": look(data, f"mean_{name}_ms"), "p50": look(data, f"median_{name}_ms")}
    found |= {p: look(data, f"{p}_{name}_ms") for p in STATISTICS[2:]}
    return spread(found)


def _load(data: Fields) -> str:
    concurrency, rate = count(data, "max_concurrency"), number(data, "request_rate")
    names = [f"c{concurrency}"] if concurrency is not None else []
    return "-".join([*names, *([f"r{rate:g}"] if rate is not None else [])]) or "at-once"


def _number_in(words: str) -> int | None:
    return int(words) if words.isascii() and words.isdigit() else None


def _ended(data: Fields) -> float | None:
    """The date it wrote its result at, in its local time."""
    try:
        return datetime.strptime(text(data, "date"), DATE).timestamp()  # noqa: DTZ007  # it names no zone
    except ValueError:
        return None
