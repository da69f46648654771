"""From folders and files to what a report is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from dynamoc.launcher.report.campaign import RECORDS, is_campaign, read_campaign
from dynamoc.launcher.report.points import Failed, Measured, ReportError, Results
from dynamoc.launcher.results.row import Row, RowError, read_row, rows_of

TITLES = 3


def collect(paths: Sequence[Path]) -> Results:
    """Campaign folders, run folders, and rows as `.json` or `.jsonl`; ReportError."""
    parts = [_collect_one(path) for path in paths]
    title = ", ".join(part.title for part in parts[:TITLES]) + (" …" if len(parts) > TITLES else "")
    held = [part.holdings for part in parts if part.holdings is not None]
    return Results(
        title=title,
        measured=_merged([point for part in parts for point in part.measured]),
        failed=tuple(point for part in parts for point in part.failed),
        pruned=tuple(point for part in parts for point in part.pruned),
        limits=tuple(dict.fromkeys(limit for part in parts for limit in part.limits)),
        holdings=tuple(holding for holdings in held for holding in holdings) if held else None,
    )


def _collect_one(path: Path) -> Results:
    for recognises, read in READERS:
        if recognises(path):
            try:
                return read(path)
            except (OSError, RowError, msgspec.MsgspecError) as error:
                raise ReportError(f"{path} cannot be reported: {error}") from error
    kinds = "a campaign's folder, a run's folder, or rows in a `.json` or `.jsonl` file"
    raise ReportError(f"{path} is neither {kinds}" if path.exists() else f"{path} does not exist")


def _merged(points: Sequence[Measured]) -> tuple[Measured, ...]:
    """One point per id: campaigns that share a point share its repeats."""
    merged: dict[str, Measured] = {}
    for point in points:
        known = merged.get(point.id)
        fresh = point if known is None else _with_rows(known, point)
        merged[point.id] = fresh
    return tuple(merged.values())


def _with_rows(known: Measured, more: Measured) -> Measured:
    rows = {msgspec.json.encode(row): row for row in (*known.rows, *more.rows)}
    return replace(known, rows=tuple(rows.values()))


def _run_folder(folder: Path) -> Results:
    spec = folder / "spec.yaml"
    text = spec.read_text() if spec.is_file() else None
    results = folder / "results"
    measured = tuple(
        Measured(
            f"{row.run}/{row.point}",
            row.run,
            (row,),
            row.labels,
            text,
            results / f"{row.point}.json",
            records=tuple(path for path in (results / row.point / RECORDS,) if path.is_file()),
        )
        for row in rows_of(folder)
    )
    failed = tuple(
        Failed(f"{folder.name}/{path.stem}", path.read_text().partition("\n")[0], {}, text, path)
        for path in sorted((folder / "evidence").glob("load-*.txt"))
    )
    return Results(folder.name, measured, failed)


def _rows_file(path: Path) -> Results:
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else []
    rows = [msgspec.json.decode(line, type=Row) for line in lines if line.strip()]
    rows = rows if path.suffix == ".jsonl" else [read_row(path)]
    points: dict[str, list[Row]] = {}
    for row in rows:
        points.setdefault(f"{row.run}/{row.point}", []).append(row)
    measured = [
        Measured(name, group[0].run, tuple(group), group[0].labels, None, path) for name, group in points.items()
    ]
    return Results(path.stem, tuple(measured))


def _is_run(path: Path) -> bool:
    return (path / "results").is_dir() or (path / "plan.json").is_file()


def _is_rows(path: Path) -> bool:
    return path.is_file() and path.suffix in (".json", ".jsonl")


READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Results]], ...] = (
    (is_campaign, read_campaign),
    (_is_run, _run_folder),
    (_is_rows, _rows_file),
)
"""The most particular first."""
