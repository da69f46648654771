"""Slurm as a place where points are measured: a job an attempt, submitted once, which outlives its launcher."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from dynamoc.compiler.artifacts import Artifact
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.load_plan import FILE
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.source import Source
from dynamoc.launcher.campaign.compiled import compile_deployment
from dynamoc.launcher.campaign.executor import Attempt, CancelledError, DeploymentError, Measured
from dynamoc.launcher.campaign.failures import Cause, Failure, cause_of_refusal, cause_of_state
from dynamoc.launcher.campaign.served import load_of, result_of, results_of
from dynamoc.launcher.campaign.state import Task
from dynamoc.launcher.runs import RunFolderError, make_run
from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.following import look_patiently
from dynamoc.launcher.slurm.receipts import Receipts, ReceiptsError
from dynamoc.launcher.slurm.states import Phase
from dynamoc.launcher.slurm.submission import submit

TARGET = "slurm"
POLL_S = 1.0
LAST_WORDS_S = 10.0
"""How long results of a job that is over may take to be seen here."""


class Slurm:
    """As many jobs at a time as the campaign allows; the scheduler does the rest."""

    goes_on = True

    def __init__(
        self, root: Path, cluster: Cluster, models: Callable[[Source], ModelLibrary], is_cancelled: Callable[[], bool]
    ) -> None:
        self._root = root
        self._cluster = cluster
        self._models = models
        self._is_cancelled = is_cancelled

    @contextlib.contextmanager
    def session(self, attempt: Attempt) -> Iterator[JobSession]:
        """Nothing is submitted before there are tasks; DeploymentError."""
        try:
            yield JobSession(attempt, self._root, self._write, self._is_cancelled)
        except (tools.SlurmError, ReceiptsError, RunFolderError, OSError) as error:
            raise DeploymentError(_failure_of(error)) from error

    def recover(self, attempt: Attempt, tasks: Sequence[Task]) -> Iterator[Measured]:
        """Never asked for: the next session goes on with the job."""
        yield from results_of(attempt.folder, tasks)

    def _write(self, attempt: Attempt, tasks: Sequence[Task]) -> None:
        """The run folder, with the tasks as its load."""
        compiled = compile_deployment(attempt.deployment, self._cluster, TARGET, self._models)
        kept = [artifact for artifact in compiled.artifacts() if str(artifact.path) != FILE]
        load = load_of(tasks, attempt.deployment.gpus, compiled.plan.graph.time_limit_s)
        text = msgspec.json.format(msgspec.json.encode(load), indent=2).decode() + "\n"
        make_run(attempt.folder, (*kept, Artifact(PurePosixPath(FILE), text)), with_key=False)


class JobSession:
    """One job."""

    def __init__(
        self,
        attempt: Attempt,
        root: Path,
        write: Callable[[Attempt, Sequence[Task]], None],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.gpu_s = 0.0
        self._attempt = attempt
        self._root = root
        self._write = write
        self._is_cancelled = is_cancelled

    def measure(self, tasks: Sequence[Task]) -> Iterator[Measured]:
        """Submit, or find the job that an earlier launcher submitted; wait for its end, and read what it left."""
        folder = self._attempt.folder
        if not folder.is_dir():
            self._write(self._attempt, tasks)
        job = submit(folder)
        seen: set[Task] = set()
        began: float | None = None
        while True:
            now = look_patiently(job)
            began = time.monotonic() if began is None and now is not None and now.phase is Phase.RUNNING else began
            fresh = list(results_of(folder, [t for t in tasks if t not in seen]))
            seen |= {task for task, _ in fresh}
            yield from fresh
            if now is None or now.phase.is_over:
                break
            if self._is_cancelled():
                tools.cancel(job)
                Receipts(folder).add("cancel", job=job)
                raise CancelledError
            time.sleep(POLL_S)
        if began is not None:
            self.gpu_s = (time.monotonic() - began) * self._attempt.deployment.gpus
        yield from self._rest([task for task in tasks if task not in seen], now)

    def _rest(self, tasks: Sequence[Task], job: tools.Job | None) -> Iterator[Measured]:
        """What the job left of these; those without a result failed with their load, or all with their job."""
        folder = self._attempt.folder
        deadline = time.monotonic() + LAST_WORDS_S
        while any(result_of(folder, task) is None for task in tasks) and time.monotonic() < deadline:
            if any(self._evidence(task).is_file() for task in tasks):
                break
            time.sleep(POLL_S)
        lost = []
        for task in tasks:
            found = result_of(folder, task)
            if found is not None:
                yield found
            elif self._evidence(task).is_file():
                words = self._evidence(task).read_text(errors="replace").partition("\n")[0]
                yield task, Failure(Cause.BENCHMARK, words, str(self._evidence(task).relative_to(self._root)))
            else:
                lost.append(task)
        if lost:
            raise DeploymentError(self._failure(job))

    def _evidence(self, task: Task) -> Path:
        return self._attempt.folder / "evidence" / f"load-{task.name}.txt"

    def _failure(self, job: tools.Job | None) -> Failure:
        evidence = str(self._attempt.folder.relative_to(self._root))
        if job is None:
            return Failure(Cause.UNKNOWN, "Slurm has forgotten the job", evidence)
        cause = Cause.UNKNOWN if job.phase is Phase.DONE else cause_of_state(job.state)
        return Failure(cause, str(job), evidence)


def _failure_of(error: Exception) -> Failure:
    if isinstance(error, tools.RefusedError):
        return Failure(cause_of_refusal(str(error)), str(error))
    return Failure(Cause.INFRA, str(error))
