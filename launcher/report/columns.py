"""The columns of every table of points: one list for the page, CSV, Markdown and Parquet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from dynamoc.launcher.report.point_view import PointView
from dynamoc.launcher.report.view import View

Cell = str | float | int | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in files, its heading for people, and what is in it."""

    name: str
    heading: str
    of: Callable[[PointView], Cell]
    short: bool = True
    """Whether it is in the tables that people read."""


def _figure(name: str, heading: str, key: str | None = None, *, short: bool = True) -> Column:
    return Column(name, heading, lambda point: point.figures.get(key or name), short)


def columns_of(view: View) -> tuple[Column, ...]:
    """All of them, then one for each axis."""
    unit = "tok/s/GPU" if view.per_gpu else "tok/s of all"
    axes = dict.fromkeys(name for point in view.points for name in point.values)
    return (
        *_ABOUT,
        _figure("tokens_per_s_user", "tok/s/user", "user"),
        _figure("throughput", unit),
        *_FIGURES,
        *(Column(f"axis:{axis}", axis, _value(axis), short=False) for axis in axes),
    )


def _value(axis: str) -> Callable[[PointView], Cell]:
    return lambda point: point.values.get(axis)


_ABOUT = (
    Column("point", "point", lambda point: point.name),
    Column("id", "id", lambda point: point.id, short=False),
    Column("deployment", "deployment", lambda point: point.deployment, short=False),
    Column("workload", "workload", lambda point: point.workload, short=False),
    Column("load", "load", lambda point: point.load),
    Column("standing", "verdict", lambda point: point.standing),
    Column("reasons", "reasons", lambda point: "; ".join(point.reasons) or None, short=False),
    Column("simulated", "simulated", lambda point: point.simulated, short=False),
    Column("repeats", "repeats", lambda point: point.repeats, short=False),
    Column("frontier", "frontier", lambda point: point.front),
    Column("frontier_with_ttft", "frontier with TTFT", lambda point: point.front_ttft, short=False),
    Column("sla", "SLA", lambda point: point.sla),
    Column("gpus", "GPUs", lambda point: point.gpus),
    Column("gpus_working", "working GPUs", lambda point: point.gpus_working, short=False),
    Column("requests", "requests", lambda point: point.requests, short=False),
    Column("completed", "completed", lambda point: point.completed, short=False),
)

_FIGURES = (
    _figure("tokens_per_s_working_gpu", "tok/s/working GPU", "per_working_gpu", short=False),
    _figure("requests_per_s", "req/s"),
    _figure("output_tokens_per_s", "tok/s", short=False),
    _figure("ttft_ms_p50", "TTFT p50", "ttft_ms@p50"),
    _figure("ttft_ms_p95", "TTFT p95", "ttft_ms@p95"),
    _figure("ttft_ms_p99", "TTFT p99", "ttft_ms@p99", short=False),
    _figure("tpot_ms_avg", "TPOT", "tpot_ms@avg"),
    _figure("tpot_ms_p95", "TPOT p95", "tpot_ms@p95"),
    _figure("itl_ms_p95", "ITL p95", "itl_ms@p95", short=False),
    _figure("e2e_ms_p50", "e2e p50", "e2e_ms@p50", short=False),
    _figure("e2e_ms_p95", "e2e p95", "e2e_ms@p95"),
    _figure("gpu_hours_per_1k", "GPU-h/1k requests"),
    _figure("gpu_hours_per_1m", "GPU-h/1M tokens", short=False),
    _figure("kept_per_s", "req/s in SLA"),
    _figure("gpu_hours_per_1k_kept", "GPU-h/1k in SLA"),
    _figure("gpu_hours_per_1k_good", "GPU-h/1k good", short=False),
)


class TableView(msgspec.Struct, frozen=True):
    """A table as the page gets it: headings, which columns hold numbers, and a row of cells for each point."""

    headings: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


def table_of(view: View) -> TableView:
    """Of the columns that people read; those without a single cell are left out."""
    columns = [column for column in columns_of(view) if column.short]
    cells = [[column.of(point) for point in view.points] for column in columns]
    kept = [index for index, column in enumerate(cells) if any(cell is not None for cell in column)]
    numeric = tuple(not any(isinstance(cell, str | bool) for cell in cells[index]) for index in kept)
    rows = zip(*(cells[index] for index in kept), strict=True)
    return TableView(tuple(columns[index].heading for index in kept), numeric, tuple(rows))
