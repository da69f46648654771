"""Dynamo's profiler: how one prefill or decode engine does over lengths and fill, per GPU; npz or JSON."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.launcher.results.importers.reading import row_from
from dynamoc.launcher.results.row import Row, Spread

NAME = "dynamo-profiler"
PREFILL = ("prefill_isl", "prefill_ttft", "prefill_thpt_per_gpu")
DECODE = ("x_kv_usage", "y_context_length", "z_itl", "z_thpt_per_gpu")
DECODE_OSL = 500
"""What the profiler decodes for each request; its context is that of the middle, isl + osl / 2."""
MILLI = 1000.0

Columns = Mapping[str, Sequence[float]]


def matches(data: Any) -> bool:
    """The JSON form of either engine."""
    return isinstance(data, dict) and (all(n in data for n in PREFILL) or all(n in data for n in DECODE))


def rows(path: Path, data: Columns) -> Iterator[Row]:
    """One for each measured point, as of an engine of one GPU: its figures are per GPU, and no more is known."""
    names = PREFILL if all(name in data for name in PREFILL) else DECODE
    columns = [data[name] for name in names]
    if len({len(column) for column in columns}) != 1:
        lengths = ", ".join(f"{name} has {len(column)}" for name, column in zip(names, columns, strict=True))
        raise ImportFault(f"{path}: columns of one length are needed: {lengths}")
    for point in zip(*columns, strict=True):
        yield (_prefill if names is PREFILL else _decode)(path, *(float(value) for value in point))


def read_npz(path: Path) -> Iterator[Row]:
    """The arrays of the file, nothing of it unpickled; ImportFault."""
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            data = {name: found[name].ravel().tolist() for name in found.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ImportFault(f"{path}: not a whole npz file: {error}") from error
    if not matches(data):
        raise ImportFault(
            f"{path}: an npz file, but not of Dynamo's profiler; it has {', '.join(sorted(data)) or 'nothing'}"
        )
    yield from rows(path, data)


def _prefill(path: Path, isl: float, ttft_ms: float, per_s: float) -> Row:
    """Prefill alone: each request brings one token, the first."""
    requests_per_s = per_s / isl if isl else 0.0
    told = {"ttft_ms": Spread(avg=ttft_ms), "e2e_ms": Spread(avg=ttft_ms), "isl_asked": round(isl), "concurrency": 1}
    figures = {"requests_per_s": requests_per_s, "output_tokens_per_s": requests_per_s, "input_tokens_per_s": per_s}
    lengths = {"isl": isl, "osl": 1.0, "osl_asked": 1, "duration_s": ttft_ms / MILLI}
    return _row(path, f"prefill-isl{isl:g}", "prefill", {**told, **figures, **lengths})


def _decode(path: Path, usage: float, context: float, itl_ms: float, per_s: float) -> Row:
    isl = max(context - DECODE_OSL / 2, 0.0)
    told = {"tpot_ms": Spread(avg=itl_ms), "isl_asked": round(isl), "osl_asked": DECODE_OSL}
    figures = {
        "requests_per_s": per_s / DECODE_OSL,
        "output_tokens_per_s": per_s,
        "input_tokens_per_s": 0.0,
        "effective_concurrency": per_s * itl_ms / MILLI,
    }
    lengths = {"isl": isl, "osl": float(DECODE_OSL), "duration_s": itl_ms * DECODE_OSL / MILLI}
    name = f"decode-kv{usage:g}-context{context:g}"
    return _row(path, name, "decode", {**told, **figures, **lengths}, {"kv_usage": f"{usage:g}"})


def _row(path: Path, point: str, role: str, figures: dict[str, Any], labels: dict[str, str] | None = None) -> Row:
    known = {"run": path.parent.name, "model": "", "tool": NAME, "tool_version": ""}
    counts = {"requests": 1, "completed": 1, "failed": 0, "gpus_allocated": 1, "gpus_working": 1}
    return row_from(path, {**known, **counts, **figures, "point": point, "labels": {"role": role, **(labels or {})}})
