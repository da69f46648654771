"""Follows a submitted run: a line for every change of its job and of its processes, until the job is over."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from dynamoc.launcher.board import Lines
from dynamoc.launcher.runs import manifest_of, statuses_of
from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.readers import ABSENT, Reader, choose_reader
from dynamoc.launcher.slurm.states import Phase
from dynamoc.launcher.slurm.succession import follow_up

POLL_S = 1.0
PATIENCE_S = 300.0


def follow(folder: Path, job: str, console: Console) -> int:
    """0 when the run did what it was asked to, else 1. A job that was cut short is followed by the next, as allowed.

    SlurmError when Slurm is silent for minutes; ReceiptsError, LoadError.
    """
    reader, why = choose_reader()
    if why != ABSENT:
        console.print(f"who reads jobs: {why}", markup=False)
    while True:
        ended = _follow_one(folder, job, console, reader)
        if ended is None or ended.phase is Phase.DONE:
            return 0 if ended is not None else 1
        successor = None if ended.phase is Phase.CANCELLED else follow_up(folder, ended)
        if successor is None:
            return 1
        console.print(f"job {successor} goes on with what is left of job {job}", markup=False)
        job = successor


def _follow_one(folder: Path, job: str, console: Console, reader: Reader) -> tools.Job | None:
    """The job when it is over; None where Slurm has forgotten it."""
    manifest = manifest_of(folder)
    lines = Lines(console)
    log = Log(folder / f"slurm-{job}.log", console)
    shown = ""
    while True:
        now = look_patiently(job, reader)
        if now is None:
            console.print(f"Slurm does not know job {job} any more", markup=False)
            return None
        statuses = statuses_of(folder, manifest).values()
        lines.show([process for status in statuses for process in status.processes.values()])
        log.show()
        if str(now) != shown:
            shown = str(now)
            console.print(shown, markup=False)
        if now.phase.is_over:
            return now
        time.sleep(POLL_S)


def wait_over(job: str, limit_s: float) -> tools.Job | None:
    """The job when it is over, or as it is after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while True:
        now = tools.look(job)
        if now is None or now.phase.is_over or time.monotonic() > deadline:
            return now
        time.sleep(POLL_S)


class Log:
    """The log of the job, as it grows."""

    def __init__(self, path: Path, console: Console) -> None:
        self._path = path
        self._console = console
        self._read = 0

    def show(self) -> None:
        """Print what is new."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._console.print(line, markup=False, highlight=False)


def look_patiently(job: str, reader: Reader | None = None) -> tools.Job | None:
    """The job; a controller that is away for a while is waited for. SlurmError after minutes."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return tools.look(job) if reader is None else reader.job(job)
        except tools.RefusedError:
            raise
        except tools.SlurmError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
