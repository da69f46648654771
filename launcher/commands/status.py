"""`dynamoc status`: how a run is, from its folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dynamoc.compiler.array_plan import ArrayPlan
    from dynamoc.launcher.health_record import Health
    from dynamoc.launcher.slurm.tools import Job
    from dynamoc.runtime.agent.record import RunStatus


@click.command()
@click.argument("run", required=False)
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where runs are.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(run: str | None, runs_dir: Path, form: str) -> None:
    """Show the state of RUN: a folder, a name or its beginning; the latest by default."""
    from dynamoc.launcher.health_record import read_health
    from dynamoc.launcher.runs import RunFolderError, find_run, has_agent, manifest_of, statuses_of
    from dynamoc.launcher.slurm.arrays import array_of
    from dynamoc.launcher.slurm.receipts import ReceiptsError

    try:
        folder = find_run(runs_dir, run)
        array = array_of(folder)
        if array is not None:
            sys.exit(_show_array(folder, array, form))
        statuses = statuses_of(folder, manifest_of(folder))
        health = read_health(folder)
        job = _job(folder)
    except (RunFolderError, ReceiptsError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    lost = [node for node, status in statuses.items() if not status.state.is_over and not has_agent(folder, node)]
    if form == "json":
        _print_json(folder, statuses, lost, job, health)
    else:
        if job is not None:
            click.echo(str(job))
        _print_text(folder, statuses, lost)
        if health is not None:
            click.echo(f"health: {health}")
    failed = job is not None and job.phase == "failed"
    sys.exit(1 if lost or failed or any(status.state == "failed" for status in statuses.values()) else 0)


def _show_array(folder: Path, array: ArrayPlan, form: str) -> int:
    """A line a point, or all of it as JSON; 1 if a task failed, or Slurm does not say."""
    import msgspec

    from dynamoc.launcher.slurm.arrays import lines_of
    from dynamoc.launcher.slurm.submission import job_of
    from dynamoc.launcher.slurm.tools import SlurmError, look_tasks

    try:
        job = job_of(folder)
        tasks = () if job is None else look_tasks(job)
    except SlurmError as error:
        raise click.ClickException(f"what Slurm has of this run is not known: {error}") from error
    if form == "json":
        found = [{**msgspec.to_builtins(task), "phase": task.job.phase} for task in tasks]
        click.echo(msgspec.json.encode({"folder": str(folder), "points": array.points, "tasks": found}))
    else:
        lines = ["it was never submitted"] if job is None else lines_of(folder, array, tasks)
        click.echo("\n".join([str(folder), *lines]))
    return 1 if any(task.job.phase == "failed" for task in tasks) else 0


def _job(folder: Path) -> Job | None:
    """The Slurm job of the run, as Slurm has it; None for a run that never became one, or that Slurm forgot."""
    from dynamoc.launcher.slurm.submission import job_of
    from dynamoc.launcher.slurm.tools import SlurmError, look

    try:
        job = job_of(folder)
        return None if job is None else look(job)
    except SlurmError as error:
        click.echo(f"what Slurm has of this run is not known: {error}", err=True)
        return None


def _print_json(
    folder: Path, statuses: Mapping[int, RunStatus], lost: Sequence[int], job: Job | None, health: Health | None
) -> None:
    import msgspec

    found: dict[str, object] = {
        "folder": str(folder),
        "nodes": [statuses[node] for node in sorted(statuses)],
        "lost_agents": lost,
    }
    if health is not None:
        found["health"] = health
    if job is not None:
        found["job"] = {**msgspec.to_builtins(job), "phase": job.phase}
    click.echo(msgspec.json.encode(found))


def _print_text(folder: Path, statuses: Mapping[int, RunStatus], lost: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table

    from dynamoc.launcher.board import COLOURS

    console = Console(highlight=False, soft_wrap=True)
    console.print(str(folder), markup=False)
    if not statuses:
        console.print("no agent has written a status yet")
    table = Table("process", "state", "for", "incarnation", "restarts", "pid", "address", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    reasons = []
    for node, status in sorted(statuses.items()):
        console.print(f"node {node}: {'the agent is gone, last seen ' if node in lost else ''}{status.state}")
        for process in status.processes.values():
            port = process.ports.get("http", process.ports.get("plane"))
            table.add_row(
                process.name,
                f"[{COLOURS.get(process.state, 'default')}]{process.state}[/]",
                f"{max(0.0, time.time() - process.since):.0f} s",
                str(process.incarnation),
                str(process.restarts),
                str(process.pid or ""),
                process.host if port is None else f"{process.host}:{port}",
            )
            if process.reason:
                reasons.append(f"{process.name}: {process.reason} {process.evidence}".rstrip())
    if statuses:
        console.print(table)
    for reason in reasons:
        console.print(reason, markup=False)
