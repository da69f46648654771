"""Which tool wrote a file, by what is in it; and the files of a folder that are results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dynamoc.launcher.results.importers import aiperf, aiperf_aggregate, genai_perf, guidellm, profiler, serving_bench
from dynamoc.launcher.results.importers.fault import ImportFault, UnknownFault
from dynamoc.launcher.results.importers.jsonl import is_records, record_row
from dynamoc.launcher.results.row import Row

SUMMARY = "profile_export_aiperf.json"
RECORDS = "profile_export.jsonl"
PHASES = "phases"
SUFFIXES = (".json", ".jsonl", ".npz")
OTHER_FORMS = (".csv", ".yaml", ".yml", ".html", ".txt", ".md")
PYTORCH = ".pytorch.json"
"""What vLLM writes beside its result for a dashboard of PyTorch's."""
MAX_BYTES = 1024**3


class Importer(NamedTuple):
    """How one tool's file is known, and read."""

    matches: Callable[[Any], bool]
    rows: Callable[[Path, Any], Iterator[Row]]


IMPORTERS = (
    Importer(aiperf.matches, aiperf.rows),
    Importer(aiperf_aggregate.matches, aiperf_aggregate.rows),
    Importer(genai_perf.matches, genai_perf.rows),
    Importer(guidellm.matches, guidellm.rows),
    Importer(profiler.matches, profiler.rows),
    Importer(serving_bench.matches, serving_bench.rows),
)


def read_results(path: Path) -> list[Row]:
    """The rows of a file, or of every results file of a folder; ImportFault, also where there is none."""
    if not path.is_dir():
        return list(_read_file(path))
    runs = _runs(path)
    found = [*_read_all(runs, known=True), *_read_all(_own_files(path, runs), known=not runs)]
    if not found:
        raise ImportFault(f"{path}: no results of a known load tool in this folder")
    return found


def _read_all(files: list[Path], *, known: bool) -> list[Row]:
    """Rows of all, or what is wrong with every one at fault; unless all are `known`, those of no tool are passed by."""
    rows: list[Row] = []
    faults: list[ImportFault] = []
    for file in files:
        try:
            rows += _read_file(file)
        except UnknownFault as fault:
            faults += [fault] if known else []
        except ImportFault as fault:
            faults.append(fault)
    if faults:
        raise ImportFault("\n".join(map(str, faults)))
    return rows


def _runs(folder: Path) -> list[Path]:
    """AIPerf's and GenAI-Perf's runs of a tree, and the profiler's arrays.

    A run that failed as a whole left records and no summary. What is below `phases/` is a part of a run.
    """
    names = {path for name in (RECORDS, SUMMARY) for path in folder.rglob(name)}
    runs = sorted({path.parent for path in names if PHASES not in path.relative_to(folder).parts})
    found = [run / SUMMARY if (run / SUMMARY).is_file() else run / RECORDS for run in runs]
    found += sorted(folder.rglob(f"*{genai_perf.SUFFIX}"))
    return found + sorted(path for path in folder.rglob("*raw_data.*") if path.suffix in SUFFIXES)


def _own_files(folder: Path, runs: list[Path]) -> list[Path]:
    """Of a folder that is not a run itself: what else lies in one is about the run."""
    if folder in {run.parent for run in runs}:
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.endswith(PYTORCH))


def _read_file(path: Path) -> Iterator[Row]:
    if path.suffix in OTHER_FORMS:
        raise ImportFault(f"{path}: {path.suffix} is not read: give the JSON that the tool writes of the same run")
    if path.suffix == ".npz":
        yield from profiler.read_npz(path)
        return
    if is_records(path):
        yield record_row(path)
        return
    for place, data in _objects(path):
        yield from _rows(path, place, data)


def _rows(path: Path, place: str, data: Any) -> Iterator[Row]:
    importer = next((each for each in IMPORTERS if each.matches(data)), None)
    if importer is not None:
        yield from importer.rows(path, data)
        return
    try:
        yield msgspec.convert(data, Row)
    except msgspec.ValidationError:
        keys = ", ".join(f"`{key}`" for key in list(data)[:5]) if isinstance(data, dict) else type(data).__name__
        known = "AIPerf, GenAI-Perf, vLLM bench, SGLang bench, guidellm and Dynamo's profiler"
        raise UnknownFault(f"{place}: not a result of a known tool ({known}): it holds {keys}") from None


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON of a file, or of each of its lines; Python's numbers, for these tools write `Infinity`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImportFault(f"{path}: larger than {MAX_BYTES} bytes")
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ImportFault(f"{path}: cannot be read as text: {error}") from error
    if not text.strip():
        raise ImportFault(f"{path}: an empty file; the run that was to write it failed")
    try:
        yield str(path), json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        yield from _lines(path, text, error)


def _lines(path: Path, text: str, whole: Exception) -> Iterator[tuple[str, Any]]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, line in lines:
        try:
            yield f"{path}:{number}", json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            if number == lines[0][0]:
                raise ImportFault(f"{path}: not whole JSON, was it cut off? {whole}") from error
            raise ImportFault(f"{path}:{number}: not whole JSON, was it cut off? {error}") from error


def to_lines(rows: list[Row]) -> bytes:
    """One row a line."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
