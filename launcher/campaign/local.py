"""This machine as a place where points are measured: one run folder an attempt, stopped before the next begins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.source import Source
from dynamoc.launcher.campaign.compiled import compile_deployment
from dynamoc.launcher.campaign.executor import Attempt, CancelledError, DeploymentError, Measured
from dynamoc.launcher.campaign.failures import Cause, Failure, cause_of_start
from dynamoc.launcher.campaign.served import make_loads, results_of
from dynamoc.launcher.campaign.state import Task
from dynamoc.launcher.local import LocalRun, RunFailedError
from dynamoc.launcher.runs import RunFolderError, has_agent, make_run, manifest_of

TARGET = "local"
LEAVE_LIMIT_S = 120.0
POLL_S = 0.2


class Local:
    """Deployments that run at once have loopback addresses of their own."""

    goes_on = False

    def __init__(
        self, root: Path, cluster: Cluster, models: Callable[[Source], ModelLibrary], is_cancelled: Callable[[], bool]
    ) -> None:
        self._root = root
        self._cluster = cluster
        self._models = models
        self._is_cancelled = is_cancelled

    @contextlib.contextmanager
    def session(self, attempt: Attempt) -> Iterator[LocalSession]:
        """Start every agent and wait until all serves; DeploymentError, CancelledError."""
        compiled = compile_deployment(attempt.deployment, self._cluster, TARGET, self._models)
        try:
            make_run(attempt.folder, compiled.artifacts(), with_key=True)
            run = LocalRun(attempt.folder, manifest_of(attempt.folder), attempt.slot)
            session = LocalSession(run, attempt, self._root, self._is_cancelled)
            with session.timed(), run.running(lambda: None):
                run.wait_ready(session.tick)
                yield session
        except RunFailedError as error:
            evidence = str(attempt.folder.relative_to(self._root))
            raise DeploymentError(Failure(cause_of_start(str(error)), str(error), evidence)) from error
        except RunFolderError as error:
            raise DeploymentError(Failure(Cause.INFRA, str(error))) from error

    def recover(self, attempt: Attempt, tasks: Sequence[Task]) -> Iterator[Measured]:
        """Its agents drain by themselves when their launcher ends; what they had brought until then counts."""
        if not attempt.folder.is_dir():
            return
        nodes = {process.node for process in manifest_of(attempt.folder).processes}
        deadline = time.monotonic() + LEAVE_LIMIT_S
        while any(has_agent(attempt.folder, node) for node in nodes):
            if time.monotonic() > deadline:
                reason = f"agents of {attempt.folder} still run after {LEAVE_LIMIT_S:g} s"
                raise DeploymentError(Failure(Cause.INFRA, reason))
            time.sleep(POLL_S)
        yield from results_of(attempt.folder, tasks)


class LocalSession:
    """A run of this machine that serves."""

    def __init__(self, run: LocalRun, attempt: Attempt, root: Path, is_cancelled: Callable[[], bool]) -> None:
        self.gpu_s = 0.0
        self._run = run
        self._gpus = attempt.deployment.gpus
        self._root = root
        self._is_cancelled = is_cancelled

    def measure(self, tasks: Sequence[Task]) -> Iterator[Measured]:
        """Each task by itself; RunFailedError if the run ended under it."""
        for measured in make_loads(self._run, tasks, self._gpus, self._root, self._is_cancelled):
            if isinstance(measured[1], Failure):
                self.tick()  # a load that was cut short has not failed
                self._run.check()  # then it is not the load that failed
            yield measured
            self.tick()

    def tick(self) -> None:
        """CancelledError where nothing more is wanted."""
        if self._is_cancelled():
            raise CancelledError

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count what its GPUs cost."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.gpu_s = (time.monotonic() - began) * self._gpus
