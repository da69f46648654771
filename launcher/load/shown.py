"""A load as it is made, for whoever watches: a line per point, and a table of all."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dynamoc.launcher.load.point import LoadPlan
from dynamoc.launcher.load.run import ServedRun, run_load
from dynamoc.launcher.results.row import Row, Spread, rows_of
from dynamoc.launcher.results.verdict import judge

HEADINGS = (
    "point",
    "ok",
    "failed",
    "req/s",
    "tok/s",
    "TTFT p50",
    "TTFT p99",
    "TPOT p50",
    "TPOT p99",
    "e2e p50",
    "KV by",
    "verdict",
)


def make_load(run: ServedRun, plan: LoadPlan, console: Console) -> list[str]:
    """Make what remains of a load and show all its results; what went wrong. As `run_load` raises."""

    def show(row: Row) -> None:
        words = f"load point {row.point}: {row.completed} of {row.requests} requests in {row.duration_s:.1f} s"
        console.print(words, markup=False)
        for reason in judge(row).reasons:
            console.print(f"  {reason.standing}: {reason.text}", markup=False)

    faults = run_load(run, plan, show)
    rows = {row.point: row for row in rows_of(run.folder)}
    console.print(results_table([rows[point.id] for point in plan.points if point.id in rows]))
    return faults


def results_table(rows: Sequence[Row]) -> Table:
    """A row per load point; times in ms."""
    table = Table(title="Load (ms)", title_justify="left", box=SIMPLE_HEAD)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("point", "KV by", "verdict") else "right")
    for row in rows:
        table.add_row(
            row.point,
            str(row.completed),
            str(row.failed),
            f"{row.requests_per_s:.2f}",
            f"{row.output_tokens_per_s:.1f}",
            _ms(row.ttft_ms, "p50"),
            _ms(row.ttft_ms, "p99"),
            _ms(row.tpot_ms, "p50"),
            _ms(row.tpot_ms, "p99"),
            _ms(row.e2e_ms, "p50"),
            ", ".join(row.transports or ()) or "–",
            judge(row).standing,
        )
    return table


def _ms(spread: Spread | None, name: str) -> str:
    value = None if spread is None else getattr(spread, name)
    return "–" if value is None else f"{value:.1f}"
