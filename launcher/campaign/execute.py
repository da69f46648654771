"""Runs what is left of a campaign: every deployment in turn, or some at once; a failure is that of its points alone."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from enum import StrEnum
from pathlib import Path

from dynamoc.launcher.campaign.cache import ResultCache
from dynamoc.launcher.campaign.executor import Attempt, CancelledError, DeploymentError, Executor, Measured, Session
from dynamoc.launcher.campaign.failures import Cause, Failure
from dynamoc.launcher.campaign.state import State
from dynamoc.launcher.campaign.store import Event, StoredDeployment

HOUR_S = 3600.0
TICK_S = 0.2


class Ended(StrEnum):
    """Why a launcher stopped."""

    DONE = "done"
    CANCELLED = "cancelled"
    GPU_HOURS = "out of GPU-hours"
    WALL_TIME = "out of time"


class Campaigner:
    """Of one campaign's folder, whose lock it holds."""

    def __init__(
        self,
        state: State,
        executor: Executor,
        cache: ResultCache | None,
        tick: Callable[[], None],
        stopping: threading.Event,
        *,
        retries_failed: bool = False,
    ) -> None:
        self._retries_failed = retries_failed
        self._stopping = stopping
        self._state = state
        self._executor = executor
        self._cache = cache
        self._tick = tick
        self._spent_s = wall_time_of(state.store.journal.read())
        self._began = time.monotonic()
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(state.settings.at_once):
            self._slots.put(slot)

    def run(self) -> Ended:
        """Everything that is left, or as much as the budget allows."""
        if self._state.settings.at_once == 1:
            for deployment in self._state.deployments:
                self._deploy(deployment)
                self._tick()
        else:
            self._run_some_at_once()
        return self._why_not() or Ended.DONE

    def _run_some_at_once(self) -> None:
        at_once = self._state.settings.at_once
        waiting = iter(self._state.deployments)
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(at_once) as pool:
            try:
                while True:
                    more = itertools.islice(waiting, at_once - len(running))
                    running |= {pool.submit(self._deploy, deployment) for deployment in more}
                    if not running:
                        return
                    over, running = wait(running, TICK_S, FIRST_COMPLETED)
                    for future in over:
                        future.result()
                    self._tick()
            except BaseException:
                self._stopping.set()  # else the pool would wait for all that runs
                raise

    def _deploy(self, deployment: StoredDeployment) -> None:
        """Attempts at one deployment until nothing is left to measure on it, or no attempt is left."""
        slot = self._slots.get()
        try:
            if self._has_open(deployment):
                self._finish(deployment, slot)  # before anything is reopened: a run keeps what came of its own loads
            if self._retries_failed and self._why_not() is None:
                self._state.reopen(deployment)
            self._finish(deployment, slot)
        except CancelledError:
            return
        finally:
            self._slots.put(slot)

    def _finish(self, deployment: StoredDeployment, slot: int) -> None:
        self._reuse(deployment)
        while self._state.pending(deployment) and (self._has_open(deployment) or self._why_not() is None):
            failure = self._attempt(deployment, slot)
            if failure is not None and not (failure.passes and self._state.may_retry(deployment)):
                self._give_up(deployment, failure)
                return

    def _has_open(self, deployment: StoredDeployment) -> bool:
        return self._state.open_attempt(deployment) is not None

    def _attempt(self, deployment: StoredDeployment, slot: int) -> Failure | None:
        """One start; why it was none, or did not last."""
        begun = self._state.open_attempt(deployment)
        if begun is not None and not self._executor.goes_on:
            self._recover(deployment, begun, slot)
            return None
        if begun is None:
            run = f"{self._state.store.folder.name}-{deployment.id}-{self._state.attempts(deployment)}"
            begun = self._state.begin_attempt(deployment, run)
        attempt = Attempt(deployment, self._state.store.run_folder(begun.run), slot)
        failure: Failure | None = None
        session: Session | None = None
        try:
            with self._executor.session(attempt) as session:
                self._measure(deployment, session)
        except DeploymentError as error:
            failure = error.failure
        self._state.end_attempt(deployment, begun, 0.0 if session is None else session.gpu_s, failure)
        return failure

    def _measure(self, deployment: StoredDeployment, session: Session) -> None:
        """Batch after batch, as the ladders ask for them."""
        while tasks := self._state.pending(deployment):
            for measured in session.measure(tasks):
                self._keep(deployment, measured)
                self._tick()
            if self._why_not() is not None or self._executor.goes_on:
                return

    def _recover(self, deployment: StoredDeployment, begun: Event, slot: int) -> None:
        attempt = Attempt(deployment, self._state.store.run_folder(begun.run), slot)
        while tasks := self._state.pending(deployment):
            found = list(self._executor.recover(attempt, tasks))
            for measured in found:
                self._keep(deployment, measured)
            if not found:
                break
        failure = Failure(Cause.LAUNCHER, "the launcher ended while this attempt ran")
        self._state.end_attempt(deployment, begun, spent_s(attempt.folder, begun.wall) * deployment.gpus, failure)

    def _keep(self, deployment: StoredDeployment, measured: Measured) -> None:
        task, result = measured
        if isinstance(result, Failure):
            self._state.add_failed(deployment, task, result)
            return
        self._state.add_row(deployment, task, result)
        if self._cache is not None:
            self._cache.put(task, result)

    def _reuse(self, deployment: StoredDeployment) -> None:
        """What a campaign beside this one has measured need not be measured again."""
        while self._cache is not None and (tasks := self._state.pending(deployment)):
            found = [(task, row) for task in tasks if (row := self._cache.get(task)) is not None]
            for task, row in found:
                self._state.add_row(deployment, task, row, reused="from another campaign")
            if not found:
                return

    def _give_up(self, deployment: StoredDeployment, failure: Failure) -> None:
        while tasks := self._state.pending(deployment):
            for task in tasks:
                self._state.add_failed(deployment, task, failure)

    def _why_not(self) -> Ended | None:
        """Why nothing further is started."""
        settings = self._state.settings
        if self._stopping.is_set() or self._state.store.is_cancelled:
            return Ended.CANCELLED
        if settings.gpu_hours is not None and self._state.gpu_s >= settings.gpu_hours * HOUR_S:
            return Ended.GPU_HOURS
        spent = self._spent_s + time.monotonic() - self._began
        if settings.wall_time_s is not None and spent >= settings.wall_time_s:
            return Ended.WALL_TIME
        return None


def spent_s(folder: Path, began: float) -> float:
    """How long a run lasted that nobody saw the end of: up to the last sign of life in its folder."""
    signs = [path.stat().st_mtime for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return max(0.0, max(signs, default=began) - began)


def wall_time_of(events: list[Event]) -> float:
    """Seconds for which launchers worked on a campaign; one that was killed worked up to its last line."""
    total, since, last = 0.0, None, 0.0
    for event in events:
        if event.what == "opened":
            total += max(0.0, last - since) if since is not None else 0.0
            since = event.wall
        elif event.what == "closed" and since is not None:
            total += max(0.0, event.wall - since)
            since = None
        last = event.wall
    return total + (max(0.0, last - since) if since is not None else 0.0)
