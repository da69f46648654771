"""What a run that serves brings for some tasks: their loads made one after another, their results and failures read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from dynamoc.launcher.campaign.executor import Measured
from dynamoc.launcher.campaign.failures import Cause, Failure
from dynamoc.launcher.campaign.state import Task
from dynamoc.launcher.load.point import LoadError, LoadPlan, LoadPoint
from dynamoc.launcher.load.remaining import result_file
from dynamoc.launcher.load.run import ServedRun, run_load
from dynamoc.launcher.results.row import RowError, read_row
from dynamoc.launcher.scraping import ScrapeError


def load_of(tasks: Sequence[Task], gpus: int, limit_s: float | None = None) -> LoadPlan:
    """Tasks as a load, of one tool; all together within a limit, if there is one."""
    share = float("inf") if limit_s is None else limit_s / len(tasks)
    loads = (named_load(task) for task in tasks)
    points = tuple(msgspec.structs.replace(load, deadline_s=min(load.deadline_s, share)) for load in loads)
    return LoadPlan(tool=tasks[0].point.tool, gpus_allocated=gpus, points=points)


def named_load(task: Task) -> LoadPoint:
    """The load of a task under its own name, by which its result is found."""
    return msgspec.structs.replace(task.point.load, id=task.name)


def make_loads(
    run: ServedRun, tasks: Sequence[Task], gpus: int, root: Path, is_unwanted: Callable[[], bool]
) -> Iterator[Measured]:
    """Each task by itself, so that one that comes to nothing keeps no other from being made."""
    for task in tasks:
        try:
            faults = run_load(run, load_of([task], gpus), lambda _row: None, is_unwanted)
        except LoadError as error:
            yield task, Failure(Cause.CONFIG, str(error))
            continue
        except (ScrapeError, OSError) as error:
            faults = [str(error)]
        found = result_of(run.folder, task)
        if found is None:
            reason = "; ".join(faults) or "there is no result"
            yield task, Failure(Cause.BENCHMARK, reason, str(run.folder.relative_to(root)))
        else:
            yield found


def results_of(folder: Path, tasks: Sequence[Task]) -> Iterator[Measured]:
    """Those that a run has brought."""
    for task in tasks:
        found = result_of(folder, task)
        if found is not None:
            yield found


def result_of(folder: Path, task: Task) -> Measured | None:
    """The result of a task, None if the run has none of it."""
    try:
        return task, read_row(result_file(folder, named_load(task)))
    except RowError:
        return None
