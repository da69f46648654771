"""How far a campaign is: everything the folder says, kept up to date as results and events are added to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import msgspec

from dynamoc.compiler.campaign.ladder import asked, at_most, left_out, next_points
from dynamoc.compiler.campaign.points import Point
from dynamoc.launcher.analysis.sla import Outcome, check_limits, worst_outcome
from dynamoc.launcher.campaign.failures import Failure
from dynamoc.launcher.campaign.store import Event, Store, StoredDeployment
from dynamoc.launcher.results.row import Row

REPEAT = "repeat"
Key = tuple[str, int]
"""A point, and which of its repeats."""


class Task(msgspec.Struct, frozen=True):
    """One repeat of one point, to be measured."""

    point: Point
    repeat: int

    @property
    def key(self) -> Key:
        """By which its result is known."""
        return (self.point.id, self.repeat)

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.point.id}.{self.repeat}"


class State:
    """Of one campaign; safe among threads. A result that is there already is never added again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.settings = store.settings()
        self.deployments = store.deployments()
        self._lock = threading.Lock()
        self._kept: dict[Key, bool] = {}
        self._failed: dict[Key, Event] = {}
        self._attempts: dict[str, list[Event]] = {}
        self._ended: dict[tuple[str, int], Event] = {}
        self._reopened: dict[str, int] = {}
        """By deployment, the attempt from which on failures count."""
        self.gpu_s = 0.0
        self.rows = 0
        self.best: Row | None = None
        for row in store.results.read():
            self._count_row(row)
        for event in store.journal.read():
            self._count_event(event)

    # ---- what is there ------------------------------------------------------------------------------------

    def pending(self, deployment: StoredDeployment) -> list[Task]:
        """What to measure next on a deployment; empty when it is done, or nothing can be told yet."""
        with self._lock:
            kept = self._kept_of(deployment)
            points = [
                point for ladder in deployment.ladders for point in next_points(ladder, kept, stops=self.settings.stops)
            ]
            tasks = [Task(point, repeat) for point in points for repeat in range(self.settings.repeats)]
            return [task for task in tasks if not self._is_over(task.key)]

    def attempts(self, deployment: StoredDeployment) -> int:
        """How many were begun."""
        return len(self._attempts.get(deployment.id, ()))

    def open_attempt(self, deployment: StoredDeployment) -> Event | None:
        """The latest, if it was begun and did not end."""
        begun = self._attempts.get(deployment.id)
        latest = begun[-1] if begun else None
        return latest if latest is not None and (deployment.id, latest.attempt) not in self._ended else None

    def may_retry(self, deployment: StoredDeployment) -> bool:
        """Whether the deployment has not yet failed, for causes that pass, as often as it may."""
        since = self._reopened.get(deployment.id, 0)
        ended = [e for (name, attempt), e in self._ended.items() if name == deployment.id and attempt >= since]
        return sum(e.failure is not None and e.failure.passes for e in ended) <= self.settings.retries

    def counts(self) -> Mapping[str, int]:
        """Repeats of points by what became of them; `most` bounds their sum, as a search may end early."""
        with self._lock:
            most = sum(at_most(ladder) for one in self.deployments for ladder in one.ladders) * self.settings.repeats
            out = sum(
                len(left_out(ladder, kept, stops=self.settings.stops))
                for one in self.deployments
                for kept in (self._kept_of(one),)
                for ladder in one.ladders
            )
            return {
                "most": most,
                "done": len(self._kept),
                "failed": len(self._failed),
                "left_out": out * self.settings.repeats,
            }

    def points(self) -> Mapping[str, Point]:
        """Every point that was asked for so far, by its id."""
        with self._lock:
            found = (
                point
                for one in self.deployments
                for kept in (self._kept_of(one),)
                for ladder in one.ladders
                for point in asked(ladder, kept)
            )
            return {point.id: point for point in found}

    def failures(self) -> Mapping[Key, Failure]:
        """Repeats that have no result, and will have none."""
        return {key: event.failure for key, event in self._failed.items() if event.failure is not None}

    # ---- what comes to it ---------------------------------------------------------------------------------

    def add_row(self, deployment: StoredDeployment, task: Task, row: Row, **labels: str) -> None:
        """A result, under the name of its point; once, whatever happened in between."""
        labelled = {**row.labels, "deployment": deployment.id, REPEAT: str(task.repeat), "load": task.point.load.id}
        named = msgspec.structs.replace(row, point=task.point.id, labels={**labelled, **labels})
        with self._lock:
            if self._is_over(task.key):
                return
            self.store.results.add(named, durable=self.settings.target != "simulated")
            self._count_row(named)

    def add_failed(self, deployment: StoredDeployment, task: Task, failure: Failure) -> None:
        """A point that will have no result."""
        with self._lock:
            if not self._is_over(task.key):
                self._add("failed", deployment, point=task.point.id, repeat=task.repeat, failure=failure)

    def reopen(self, deployment: StoredDeployment) -> None:
        """Points of the deployment that failed are pending again, and it may be retried as often as at first."""
        with self._lock:
            if any(event.deployment == deployment.id for event in self._failed.values()):
                self._add("reopened", deployment)

    def begin_attempt(self, deployment: StoredDeployment, run: str) -> Event:
        """Said before anything is done, so that nothing is ever done twice."""
        with self._lock:
            return self._add("attempt", deployment, attempt=self.attempts(deployment), run=run)

    def end_attempt(self, deployment: StoredDeployment, attempt: Event, gpu_s: float, failure: Failure | None) -> None:
        """Nothing of the attempt runs any more."""
        with self._lock:
            self._add("ended", deployment, attempt=attempt.attempt, gpu_s=round(gpu_s, 3), failure=failure)

    def spend_time(self, what: str) -> None:
        """A launcher begins or ends: `opened`, `closed`."""
        with self._lock:
            event = msgspec.convert({"what": what, "wall": round(time.time(), 3)}, Event)
            self.store.journal.add(event)

    # ---- inside -------------------------------------------------------------------------------------------

    def _add(self, what: str, deployment: StoredDeployment, **fields: object) -> Event:
        said = {"what": what, "wall": round(time.time(), 3), "deployment": deployment.id, **fields}
        event = msgspec.convert(said, Event)
        self.store.journal.add(event, durable=self.settings.target != "simulated")
        self._count_event(event)
        return event

    def _is_over(self, key: Key) -> bool:
        return key in self._kept or key in self._failed

    def _kept_of(self, deployment: StoredDeployment) -> dict[str, bool]:
        """Points of a deployment all of whose repeats are over: whether each of these kept to the SLA."""
        names = {point.id for ladder in deployment.ladders for point in ladder.points}
        if any(ladder.search is not None for ladder in deployment.ladders):
            names |= {point for point, _ in (*self._kept, *self._failed)}
        kept = {}
        for name in names:
            over = [self._kept.get((name, repeat), False) for repeat in range(self.settings.repeats)]
            if all(self._is_over((name, repeat)) for repeat in range(self.settings.repeats)):
                kept[name] = all(over)
        return kept

    def _count_row(self, row: Row) -> None:
        met = worst_outcome(check_limits(row, self.settings.sla)) is Outcome.MET
        self._kept.setdefault((row.point, int(row.labels.get(REPEAT, "0"))), met and row.complete)
        self.rows += 1
        if met and (self.best is None or _worth(row) > _worth(self.best)):
            self.best = row

    def _count_event(self, event: Event) -> None:
        if event.what == "attempt":
            self._attempts.setdefault(event.deployment, []).append(event)
        elif event.what == "ended":
            self._ended[event.deployment, event.attempt] = event
            self.gpu_s += event.gpu_s
        elif event.what == "failed":
            self._failed.setdefault((event.point, event.repeat), event)
        elif event.what == "reopened":
            self._reopened[event.deployment] = len(self._attempts.get(event.deployment, ()))
            self._failed = {key: one for key, one in self._failed.items() if one.deployment != event.deployment}


def _worth(row: Row) -> float:
    """Output tokens a second for each allocated GPU; of all, where there is none."""
    return row.output_tokens_per_s / (row.gpus_allocated or 1)
