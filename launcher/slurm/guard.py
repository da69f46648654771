"""Ends what Slurm cannot end any more: a node whose slurmd is gone keeps its processes when the job is over."""

from __future__ import annotations

import os
import signal
import threading

from dynamoc.launcher.slurm import tools

LOOK_S = 30.0


class Guard(threading.Thread):
    """Looks now and then whether the job it runs in still is; SIGTERM to this process when it is not.

    A controller that does not answer, or a node without Slurm's tools, says nothing.
    """

    def __init__(self, job: str, restarts: int) -> None:
        super().__init__(name="guard", daemon=True)
        self._job = job
        self._restarts = restarts
        self._never = threading.Event()

    def run(self) -> None:
        """Until the job is over for Slurm, or has been started again elsewhere."""
        while not self._never.wait(LOOK_S):
            why = self.verdict()
            if why:
                print(f"error: {why}; what is left of it here ends", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def verdict(self) -> str:
        """Why this start of the job should not be; empty where it should, or where nobody says."""
        try:
            job = tools.look(self._job)
        except tools.SlurmError:
            return ""
        if job is not None and job.phase.is_over:
            return f"for Slurm, {job}"
        if job is not None and job.restarts > self._restarts:
            return f"job {self._job} was started again"
        return ""


def guard_of_this_job() -> Guard | None:
    """Not started yet; None outside of a job."""
    job = os.environ.get("SLURM_JOB_ID")
    return None if job is None else Guard(job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))
