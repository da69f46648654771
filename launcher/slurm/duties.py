"""`python -m dynamoc.launcher.slurm.duties RUN`: inside a job, sees the run start, and asks what it is to be asked."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console

from dynamoc.launcher.asking import AskError
from dynamoc.launcher.health import UnwellError, check_health
from dynamoc.launcher.health_record import Check
from dynamoc.launcher.interview import interview
from dynamoc.launcher.load.point import LoadError, read_load
from dynamoc.launcher.runs import RunFolderError
from dynamoc.launcher.scraping import ScrapeError
from dynamoc.launcher.slurm.guard import guard_of_this_job
from dynamoc.launcher.slurm.job_run import JobRun
from dynamoc.runtime import environment
from dynamoc.runtime.agent.record import write_atomically

FAULTS = (AskError, LoadError, RunFolderError, ScrapeError, UnwellError, OSError, msgspec.MsgspecError)


class Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`questions.json` of a run folder."""

    questions: list[str]
    max_tokens: int = 128


def main(folder: Path) -> int:
    """0 when everything asked was answered as it should be, else 1. Without anything to ask it never ends by itself."""
    console = Console(highlight=False, soft_wrap=True, width=120)
    run = JobRun(folder, environment.read("DYNAMOC_LAUNCH"))
    guard = guard_of_this_job()
    if guard is not None:
        guard.start()
    try:
        faults = _do(run, console)
    except FAULTS as error:
        faults = [str(error)]
    for fault in faults:
        console.print(f"error: {fault}", markup=False)
    if faults:
        _keep_evidence(folder, faults)
    return 1 if faults else 0


def _do(run: JobRun, console: Console) -> list[str]:
    questions, load = _questions(run.folder), read_load(run.folder)
    check_health(run, lambda check: _show(check, console))
    faults = []
    if questions is not None:
        faults += interview(run, console, questions.questions, questions.max_tokens)
    if load is not None:
        from dynamoc.launcher.load.shown import make_load  # a client, a tokenizer: only where there is a load

        faults += make_load(run, load, console)
    while questions is None and load is None:
        signal.pause()
    return faults


def _questions(folder: Path) -> Questions | None:
    try:
        return msgspec.json.decode((folder / "questions.json").read_bytes(), type=Questions)
    except FileNotFoundError:
        return None


def _show(check: Check, console: Console) -> None:
    console.print(
        f"health: {check.name}: {check.state} after {check.seconds:.1f} s {check.said}".rstrip(), markup=False
    )


def _keep_evidence(folder: Path, faults: list[str]) -> None:
    path = folder / "evidence" / "duties.txt"
    path.parent.mkdir(exist_ok=True)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_atomically(path, "".join(f"{stamp} {fault}\n" for fault in faults).encode())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
