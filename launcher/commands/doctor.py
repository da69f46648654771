"""`dynamoc doctor`: what this host can do, found out by doing it."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(name="doctor")
@click.option("--kv", is_flag=True, help="Measure every way KV blocks can take on this host.")
@click.option("--json", "as_json", is_flag=True, help="The record instead of a table.")
@click.option("--fresh", is_flag=True, help="Measure again, whatever was measured before.")
@click.option("--disk", type=click.Path(file_okay=False, path_type=Path), help="Folder of the disk that is measured.")
@click.option("--mib", type=click.IntRange(2, 1024), default=64, show_default=True, help="MiB each measurement moves.")
@click.option("--limit", "limit_s", type=click.FloatRange(min=1), default=300, show_default=True, help="Seconds.")
def command(kv: bool, as_json: bool, fresh: bool, disk: Path | None, mib: int, limit_s: float) -> None:
    """Examine this host. Exit 1: a path is broken, or no answer came in time."""
    from dynamoc.launcher.examination import ExaminationError, examine, table

    if not kv:
        raise click.UsageError("say what is to be examined: `--kv`")
    try:
        record = examine(disk, mib, limit_s, fresh=fresh)
    except ExaminationError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        sys.stdout.buffer.write(record + b"\n")
    else:
        click.echo(table(record), nl=False)
