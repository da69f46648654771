"""Jobs that follow one another in a run: when one was cut short, the next goes on with what is left."""

from __future__ import annotations

from pathlib import Path

from dynamoc.launcher.load.point import read_load
from dynamoc.launcher.load.remaining import remaining
from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.receipts import Receipts
from dynamoc.launcher.slurm.states import CUT_SHORT, LOST
from dynamoc.launcher.slurm.submission import job_of, submit_again

FAILED = "FAILED"
STOPPED_EARLY = "75:0"


def follow_up(folder: Path, job: tools.Job) -> str | None:
    """The job that goes on after `job`, which is ending or over; None where there is nothing to go on with.

    Bounded by what `submit --retry` allowed. Nodes that were lost are left out. SlurmError, ReceiptsError, LoadError.
    """
    receipts = Receipts(folder)
    latest = job_of(folder)
    if latest != job.id:  # somebody has seen to it already
        return latest
    if not _was_cut_short(folder, job) or len(receipts.jobs()) > receipts.retries():
        return None
    return submit_again(folder, job.id, tools.lost_nodes(job.nodes) if job.nodes else ())


def _was_cut_short(folder: Path, job: tools.Job) -> bool:
    """A load ends before its last point; a service, whose end nobody asked for, by the loss of its nodes."""
    state = job.state.split()[0] if job.state else ""
    if state in LOST:
        return _is_unfinished(folder) is not False
    stopped = state == FAILED and job.exit_code == STOPPED_EARLY
    return (stopped or state in CUT_SHORT) and _is_unfinished(folder) is True


def _is_unfinished(folder: Path) -> bool | None:
    """Whether load points, or answers, are missing; None for a run that only serves."""
    load = read_load(folder)
    if load is not None:
        return bool(remaining(folder, load))
    return True if (folder / "questions.json").is_file() else None
