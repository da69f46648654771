"""Simulated time as a place where points are measured: nothing is started, and nothing takes longer than arithmetic."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass

import msgspec

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.lower import lower
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.source import Source
from dynamoc.launcher.campaign.compiled import compile_deployment
from dynamoc.launcher.campaign.executor import Attempt, DeploymentError, Measured
from dynamoc.launcher.campaign.failures import Cause, Failure
from dynamoc.launcher.campaign.opening import PLANNED_FOR
from dynamoc.launcher.campaign.simulation import simulate
from dynamoc.launcher.campaign.state import Task
from dynamoc.launcher.campaign.store import StoredDeployment
from dynamoc.launcher.load.point import LoadError


class Simulated:
    """In this process one point after another, or in as many others as there are deployments at once."""

    goes_on = False

    def __init__(self, cluster: Cluster, models: Callable[[Source], ModelLibrary], at_once: int) -> None:
        self._cluster = cluster
        self._models = models
        self._pool = ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) if at_once > 1 else None

    @contextlib.contextmanager
    def session(self, attempt: Attempt) -> Iterator[SimulatedSession]:
        """The deployment, compiled; DeploymentError."""
        work = _Work(attempt.deployment, self._cluster, self._models)
        yield SimulatedSession(work, self._pool)

    def recover(self, attempt: Attempt, tasks: Sequence[Task]) -> Iterator[Measured]:
        """Nothing outlives its launcher but what is in the store."""
        del attempt, tasks
        yield from ()


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process needs to know of a deployment."""

    deployment: StoredDeployment
    cluster: Cluster
    models: Callable[[Source], ModelLibrary]

    def measure(self, tasks: Sequence[Task]) -> Iterator[Measured]:
        """Every point on a pipeline of its own, cold; DeploymentError."""
        compiled = compile_deployment(self.deployment, self.cluster, PLANNED_FOR, self.models)
        manifest = lower(compiled.plan)
        for task in tasks:
            try:
                load = msgspec.structs.replace(task.point.load, id=task.name)
                row = simulate(compiled.plan, manifest, load, self.deployment.gpus, self.deployment.id)
            except LoadError as error:
                yield task, Failure(Cause.CONFIG, str(error))
                continue
            failure = Failure(Cause.BENCHMARK, f"none of {row.requests} requests was completed")
            yield task, row if row.completed else failure


def _measure(work: _Work, tasks: Sequence[Task]) -> list[Measured] | Failure:
    try:
        return list(work.measure(tasks))
    except DeploymentError as error:
        return error.failure


class SimulatedSession:
    """A deployment under its loads."""

    gpu_s = 0.0

    def __init__(self, work: _Work, pool: Executor | None) -> None:
        self._work = work
        self._pool = pool

    def measure(self, tasks: Sequence[Task]) -> Iterator[Measured]:
        """What each comes to; DeploymentError."""
        if self._pool is None:
            yield from self._work.measure(tasks)
            return
        measured = self._pool.submit(_measure, self._work, tasks).result()
        if isinstance(measured, Failure):
            raise DeploymentError(measured)
        yield from measured
