"""`dynamoc cancel`: end a submitted run, by letting it drain."""

from __future__ import annotations

import sys
from pathlib import Path

import click

MARGIN_S = 60.0


@click.command()
@click.argument("run", required=False)
@click.option("--now", is_flag=True, help="Do not let it drain.")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where runs are.")
def command(run: str | None, now: bool, runs_dir: Path) -> None:
    """End RUN: a folder, a name or its beginning; the latest by default. Requests in flight are answered first."""
    from dynamoc.launcher.runs import RunFolderError, find_run
    from dynamoc.launcher.slurm.receipts import Receipts, ReceiptsError
    from dynamoc.launcher.slurm.submission import job_of
    from dynamoc.launcher.slurm.tools import SlurmError

    try:
        folder = find_run(runs_dir, run)
        job = job_of(folder)
        if job is None:
            raise click.ClickException(f"{folder} was never submitted")
        Receipts(folder).add("cancel", job=job)
        sys.exit(_end(folder, job, now))
    except (RunFolderError, ReceiptsError, SlurmError) as error:
        raise click.ClickException(str(error)) from error


def _end(folder: Path, job: str, now: bool) -> int:
    """0 when the job is over."""
    from dynamoc.launcher.runs import manifest_of
    from dynamoc.launcher.slurm import tools
    from dynamoc.launcher.slurm.arrays import array_of, end_array
    from dynamoc.launcher.slurm.following import wait_over
    from dynamoc.launcher.slurm.states import Phase

    array = array_of(folder)
    if array is not None:
        over = end_array(folder, job, array, now=now, margin_s=MARGIN_S)
        click.echo(f"array {job} is {'over' if over else 'still ending'}")
        return 0 if over else 1
    found = tools.look(job)
    if found is not None and found.phase is Phase.RUNNING and not now:
        click.echo(f"job {job} drains")
        tools.drain(job)
        limits = {p.start_order: p.drain_timeout_s for p in manifest_of(folder).processes}
        found = wait_over(job, sum(limits.values()) + MARGIN_S)
    if found is not None and not found.phase.is_over:
        tools.cancel(job)
        found = wait_over(job, MARGIN_S)
    click.echo(str(found) if found is not None else f"Slurm does not know job {job} any more")
    return 0 if found is None or found.phase.is_over else 1
