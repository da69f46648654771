"""Every state and exit status of a Slurm job, and what it means for a run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Phase(StrEnum):
    """How far a job is. `unknown` is a state of a Slurm we do not know: nothing is concluded from it."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDING = "ending"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        """Whether the job will not run again by itself."""
        return self in (Phase.DONE, Phase.FAILED, Phase.CANCELLED)


STATES: Mapping[str, tuple[Phase, str]] = {
    "PENDING": (Phase.QUEUED, "waits for its nodes"),
    "REQUEUED": (Phase.QUEUED, "goes back into the queue"),
    "REQUEUE_FED": (Phase.QUEUED, "goes back into the queue of another cluster"),
    "REQUEUE_HOLD": (Phase.QUEUED, "is back in the queue, and held"),
    "RESV_DEL_HOLD": (Phase.QUEUED, "is held: its reservation is gone"),
    "SPECIAL_EXIT": (Phase.QUEUED, "is back in the queue, and held after a special exit"),
    "CONFIGURING": (Phase.RUNNING, "has its nodes, which are being made ready"),
    "POWER_UP_NODE": (Phase.RUNNING, "has its nodes, which are being powered up"),
    "RUNNING": (Phase.RUNNING, "runs"),
    "RESIZING": (Phase.RUNNING, "runs, and is changing its size"),
    "SIGNALING": (Phase.RUNNING, "runs, and is being sent a signal"),
    "SUSPENDED": (Phase.RUNNING, "is suspended"),
    "STOPPED": (Phase.RUNNING, "is stopped, with its nodes kept"),
    "COMPLETING": (Phase.ENDING, "is ending"),
    "STAGE_OUT": (Phase.ENDING, "is over but for its burst buffer"),
    "COMPLETED": (Phase.DONE, "did what it was asked to"),
    "BOOT_FAIL": (Phase.FAILED, "could not start: a node did not boot"),
    "DEADLINE": (Phase.FAILED, "was ended at its deadline"),
    "FAILED": (Phase.FAILED, "failed"),
    "LAUNCH_FAILED": (Phase.FAILED, "could not be launched"),
    "NODE_FAIL": (Phase.FAILED, "lost a node"),
    "OUT_OF_MEMORY": (Phase.FAILED, "took more memory than it had"),
    "RECONFIG_FAIL": (Phase.FAILED, "could not start: its nodes could not be configured"),
    "REVOKED": (Phase.CANCELLED, "runs on another cluster of the federation"),
    "TIMEOUT": (Phase.FAILED, "was ended at its time limit before it had drained"),
    "PREEMPTED": (Phase.FAILED, "was preempted"),
    "CANCELLED": (Phase.CANCELLED, "was cancelled"),
}

LOST = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED"})
"""Ends that the cluster brought about: the same job may do well on other nodes, or later."""
CUT_SHORT = frozenset({"TIMEOUT", "DEADLINE"})
"""Ends for want of time."""

EXIT_CODES: Mapping[int, str] = {
    0: "",
    1: "the run failed; see the log of the job and the status of the run",
    2: "it could not start; see the log of the job",
    75: "it was told to stop before all was asked",
    126: "a program of the job cannot be executed",
    127: "a program of the job was not found",
    143: "it was cancelled",
}


def meaning_of(state: str) -> tuple[Phase, str]:
    """Of a state as Slurm prints it: `CANCELLED by 1000`, `RUNNING+COMPLETING`; never an exception."""
    words = [part.split()[0] for part in state.split("+") if part.split()]
    return STATES.get(words[-1] if words else "", (Phase.UNKNOWN, f"is in a state this version does not know: {state}"))


def meaning_of_exit(code: str) -> str:
    """Of Slurm's `status:signal`; empty for a good end."""
    status, _, signal = code.partition(":")
    if signal not in ("", "0"):
        return f"it was ended by signal {signal}"
    if not status.isdecimal():
        return f"exit code {code}"
    return EXIT_CODES.get(int(status), f"exit status {status}, which is not one of ours")
