"""Why a deployment or a point failed: by class, because the class decides what happens next."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from dynamoc.launcher.slurm.states import CUT_SHORT, LOST


class Cause(StrEnum):
    """Whose fault it was."""

    CONFIG = "config"
    """What was asked for cannot run."""
    ENGINE = "engine"
    """A process of the pipeline failed."""
    BENCHMARK = "benchmark"
    """The pipeline served, and the load came to nothing."""
    INFRA = "infra"
    """A machine, a network or a scheduler failed."""
    QUOTA = "quota"
    """A limit of the site: time, jobs, accounts."""
    PREEMPTED = "preempted"
    LAUNCHER = "launcher"
    """The launcher ended while it ran."""
    UNKNOWN = "unknown"


PASSING = frozenset({Cause.INFRA, Cause.PREEMPTED, Cause.QUOTA, Cause.UNKNOWN})
"""What another attempt may not meet again."""


class Failure(msgspec.Struct, frozen=True):
    """A cause, and the words of whoever noticed. `evidence` is relative to the campaign's folder."""

    cause: Cause
    reason: str
    evidence: str = ""

    @property
    def passes(self) -> bool:
        """Whether it is worth another attempt."""
        return self.cause in PASSING


_INFRA = re.compile(
    r"no space left|i/o error|stale file|connection (refused|reset)|unreachable|timed out|address already in use|nccl",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"qos|association|limit|quota|account", re.IGNORECASE)
_CONFIG = re.compile(
    r"out of memory|not found|no such file|unrecognized arguments|invalid|unknown|wrong argument", re.IGNORECASE
)


def cause_of_start(text: str) -> Cause:
    """Of a pipeline that did not come up, by the words of its agents."""
    if _INFRA.search(text):
        return Cause.INFRA
    return Cause.CONFIG if _CONFIG.search(text) else Cause.ENGINE


def cause_of_refusal(text: str) -> Cause:
    """Of a job that a scheduler did not take."""
    return Cause.QUOTA if _QUOTA.search(text) else Cause.CONFIG


def cause_of_state(state: str) -> Cause:
    """Of a job that ended badly, by its last state."""
    name = state.partition(" ")[0]
    if name == "PREEMPTED":
        return Cause.PREEMPTED
    if name in LOST:
        return Cause.INFRA
    if name in CUT_SHORT:
        return Cause.QUOTA
    return Cause.ENGINE if name in ("FAILED", "OUT_OF_MEMORY") else Cause.UNKNOWN
