"""Where points are measured: the seam behind which this machine, Slurm and simulated time look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dynamoc.launcher.campaign.failures import Failure
from dynamoc.launcher.campaign.state import Task
from dynamoc.launcher.campaign.store import StoredDeployment
from dynamoc.launcher.results.row import Row

Measured = tuple[Task, Row | Failure]


class DeploymentError(Exception):
    """A deployment did not come up, or did not last: none of its points can be measured in this attempt."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class CancelledError(Exception):
    """Somebody asked that nothing more be started."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of one deployment. `folder` is its run folder; an earlier launcher may have made it already."""

    deployment: StoredDeployment
    folder: Path
    slot: int
    """Which of those that run at the same time."""


class Session(Protocol):
    """A deployment that serves."""

    gpu_s: float
    """GPU-seconds of its allocated GPUs up to its end."""

    def measure(self, tasks: Sequence[Task]) -> Iterator[Measured]:
        """What each task came to, as it comes; DeploymentError, CancelledError."""
        ...


class Executor(Protocol):
    """One per target."""

    goes_on: bool
    """Whether an attempt outlives its launcher, and the next one goes on with it."""

    def session(self, attempt: Attempt) -> AbstractContextManager[Session]:
        """The deployment, started and in the end stopped; DeploymentError."""
        ...

    def recover(self, attempt: Attempt, tasks: Sequence[Task]) -> Iterator[Measured]:
        """What an attempt that was cut short has brought; waits until nothing of it runs any more."""
        ...
