"""The table of points for other programs: CSV, Parquet, and Markdown for people."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from dynamoc.launcher.report.columns import Cell, Column, columns_of
from dynamoc.launcher.report.points import ReportError
from dynamoc.launcher.report.view import View

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")
_SPACE = re.compile(r"\s+")


def to_csv(view: View) -> bytes:
    """RFC 4180 in UTF-8: a row for each point, every column; empty where something is not known."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    columns = columns_of(view)
    writer.writerow([column.name for column in columns])
    writer.writerows(
        [["" if (cell := column.of(point)) is None else cell for column in columns] for point in view.points]
    )
    return text.getvalue().encode()


def to_parquet(view: View) -> bytes:
    """The same columns with their types; ReportError where pyarrow is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ReportError("Parquet needs pyarrow: pip install 'dynamoc[parquet]'") from error
    columns = {column.name: [column.of(point) for point in view.points] for column in columns_of(view)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def to_markdown(view: View) -> bytes:
    """The frontier first, then all points, failures, and what was pruned by rule."""
    columns = [column for column in columns_of(view) if column.short]
    front = [[column.of(point) for column in columns] for point in view.points if point.front]
    every = [[column.of(point) for column in columns] for point in view.points]
    counts = ", ".join(f"{count} {standing}" for standing, count in view.standings.items())
    lines = [f"# {escape(view.title)}", "", f"{len(every)} points: {counts}; {len(view.failed)} failed."]
    if view.gpu_hours is not None:
        lines.append(f"{view.gpu_hours:g} GPU-hours, of them {view.measured_gpu_hours:g} under load.")
    lines += ["", "## Frontier", "", *_table(columns, front), "", "## Points", "", *_table(columns, every)]
    if view.failed:
        lines += ["", "## Failed", "", *(f"- {escape(p.name)}: {escape(p.reason)}" for p in view.failed)]
    if view.pruned:
        lines += ["", "## Pruned", ""]
        lines += [f"- {escape(p.name)}: {escape(p.rule)}, {escape(p.reason)}" for p in view.pruned]
    return ("\n".join(lines) + "\n").encode()


def _table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Nothing where there is no row; columns without a cell are left out."""
    kept = [index for index in range(len(columns)) if any(row[index] is not None for row in rows)]
    if not kept:
        return ["None."]
    heading = "| " + " | ".join(escape(columns[index].heading) for index in kept) + " |"
    rule = "|" + " --- |" * len(kept)
    return [heading, rule, *("| " + " | ".join(_cell(row[index]) for index in kept) + " |" for row in rows)]


def _cell(cell: Cell) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else ""
    return "" if cell is None else f"{cell:g}" if isinstance(cell, float) else escape(str(cell))


def escape(text: str) -> str:
    """On one line, nothing in it a sign to Markdown or HTML."""
    return (
        _MARKUP.sub(r"\\\1", _SPACE.sub(" ", text).replace("&", "&amp;")).replace("\\<", "&lt;").replace("\\>", "&gt;")
    )
