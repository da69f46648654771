"""`dynamoc results`: what other load tools wrote as rows of ours, and what rows are worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import EXIT_WRONG

if TYPE_CHECKING:
    from dynamoc.launcher.results.row import Row

PATH = click.argument("path", type=click.Path(exists=True, path_type=Path))


@click.group(name="results")
def command() -> None:
    """Import results of other load tools, and judge results."""


@command.command(name="import")
@PATH
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File for the rows; printed without it."
)
def import_results(path: Path, output: Path | None) -> None:
    """Rows of PATH, a JSON object a line.

    PATH is what AIPerf, GenAI-Perf, vLLM bench, SGLang bench, guidellm or Dynamo's profiler wrote, or a folder of it.
    """
    from dynamoc.launcher.results.importers.fault import ImportFault
    from dynamoc.launcher.results.importers.registry import read_results, to_lines
    from dynamoc.runtime.agent.record import write_atomically

    try:
        lines = to_lines(read_results(path))
        if output is not None:
            write_atomically(output, lines)
            click.echo(output)
            return
    except (ImportFault, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_WRONG)
    click.echo(lines, nl=False)


@command.command(name="judge")
@PATH
def judge_results(path: Path) -> None:
    """What each result of PATH is worth, and why: a run folder, rows, or what another tool wrote.

    Exit 0: all are valid; 1: some are not.
    """
    from dynamoc.launcher.results.importers.fault import ImportFault
    from dynamoc.launcher.results.row import RowError
    from dynamoc.launcher.results.verdict import Standing, judge

    try:
        rows = _rows(path)
    except (ImportFault, RowError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_WRONG)
    verdicts = [(row, judge(row)) for row in rows]
    for row, verdict in verdicts:
        click.echo(f"{verdict.standing}: {row.point} ({row.tool})")
        for reason in verdict.reasons:
            click.echo(f"  {reason.rule}: {reason.text} ({reason.standing})")
    sys.exit(0 if all(verdict.standing is Standing.VALID for _, verdict in verdicts) else EXIT_WRONG)


def _rows(path: Path) -> list[Row]:
    """Of a run folder also those of load points that came to nothing."""
    from dynamoc.launcher.results.importers.registry import read_results
    from dynamoc.launcher.results.row import read_row, rows_of

    if (path / "plan.json").is_file():
        failed = sorted((path / "evidence").glob("load-*.json"))
        return [*rows_of(path), *(read_row(file) for file in failed)]
    return read_results(path)
