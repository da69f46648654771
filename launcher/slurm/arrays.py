"""Array jobs: their tasks as Slurm has them, followed to the end, and ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from dynamoc.compiler.array_plan import FILE, ArrayPlan
from dynamoc.launcher.runs import manifest_of
from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.following import PATIENCE_S, POLL_S
from dynamoc.launcher.slurm.states import Phase


def array_of(folder: Path) -> ArrayPlan | None:
    """What the tasks of an array run; None for a folder of a single job. msgspec.MsgspecError."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=ArrayPlan)
    except FileNotFoundError:
        return None


def lines_of(folder: Path, array: ArrayPlan, tasks: Sequence[tools.Task]) -> list[str]:
    """A line a point: its task, and how many results are there."""
    known = {number: task.job for task in tasks for number in task.numbers}
    lines = []
    for number, point in enumerate(array.points):
        results = len(list((folder / point / "run/results").glob("*.json")))
        said = str(known[number]) if number in known else "Slurm does not know its task any more"
        lines.append(f"{point}: {said}" + (f", {results} results" if results else ""))
    return lines


def follow_array(folder: Path, job: str, array: ArrayPlan, console: Console) -> int:
    """A line for every change; 0 when every task did what it was asked to, else 1. SlurmError after minutes."""
    shown: set[str] = set()
    while True:
        tasks = _look_patiently(job)
        for line in lines_of(folder, array, tasks):
            if line not in shown:
                shown.add(line)
                console.print(line, markup=False)
        if all(task.job.phase.is_over for task in tasks):
            done = {n for task in tasks if task.job.phase is Phase.DONE for n in task.numbers}
            return 0 if done == set(range(len(array.points))) else 1
        time.sleep(POLL_S)


def end_array(folder: Path, job: str, array: ArrayPlan, *, now: bool, margin_s: float) -> bool:
    """What waits is cancelled, what runs drains first, unless it is to end `now`; whether all of it is over."""
    if not now and not _wait_over(job, 0.0):
        tools.cancel_waiting(job)
        if any(task.job.phase is Phase.RUNNING for task in tools.look_tasks(job)):
            tools.drain(job)
        _wait_over(job, max(_drain_s(folder / point) for point in array.points) + margin_s)
    if not _wait_over(job, 0.0):
        tools.cancel(job)
    return _wait_over(job, margin_s)


def _drain_s(point: Path) -> float:
    limits = {p.start_order: p.drain_timeout_s for p in manifest_of(point).processes}
    return sum(limits.values())


def _wait_over(job: str, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not all(task.job.phase.is_over for task in tools.look_tasks(job)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _look_patiently(job: str) -> tuple[tools.Task, ...]:
    """A controller that is away for a while is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return tools.look_tasks(job)
        except tools.RefusedError:
            raise
        except tools.SlurmError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
