"""The router's metrics, with their labels bound once."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter

from dynamoc.runtime.manifest import Role
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.router.membership import Membership
from dynamoc.runtime.router.placement import Placement


class Telemetry:
    """Counts what the router does."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter("dynamoc_router_requests_total")
        self._events = metrics.counter("dynamoc_router_kv_events_total")
        self._overlap_blocks = metrics.counter("dynamoc_router_overlap_blocks_total")
        self._prompt_blocks = metrics.counter("dynamoc_router_prompt_blocks_total")
        self._decision_seconds = metrics.histogram("dynamoc_router_decision_seconds")
        self._queued = metrics.gauge("dynamoc_router_queued_requests")
        self._workers = metrics.gauge("dynamoc_router_workers")
        self._index_blocks = metrics.gauge("dynamoc_router_index_blocks")
        self._outcomes: dict[str, Counter] = {}
        self._statuses: dict[tuple[str, str], Counter] = {}

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Read the queue's length whenever the metrics are read."""
        self._queued.set_function(length)

    def count(self, outcome: str) -> None:
        """One request is decided on, or will not be."""
        if outcome not in self._outcomes:
            self._outcomes[outcome] = self._requests.labels(outcome)
        self._outcomes[outcome].inc()

    def count_placement(self, placement: Placement, seconds: float) -> None:
        """One request was placed."""
        self.count(placement.outcome)
        self._overlap_blocks.inc(placement.overlap_blocks)
        self._prompt_blocks.inc(placement.prompt_blocks)
        self._decision_seconds.observe(seconds)

    def count_event(self, event: str, status: str) -> None:
        """One KV event was taken in, or could not be."""
        if (event, status) not in self._statuses:
            self._statuses[event, status] = self._events.labels(_EVENT_TYPES[event], status)
        self._statuses[event, status].inc()

    def count_gap(self) -> None:
        """KV events were lost on their way."""
        self._events.labels("unknown", "gap").inc()

    def index_changed(self, worker: str, blocks: int) -> None:
        """How many blocks of a worker the index holds now."""
        self._index_blocks.labels(worker).set(blocks)

    def forget(self, worker: str) -> None:
        """The worker is gone: a gauge of it would lie."""
        self._index_blocks.labels(worker)
        self._index_blocks.remove(worker)

    def members_changed(self, members: Membership) -> None:
        """Count the registered workers."""
        for role in Role:
            if role.is_worker:
                self._workers.labels(role).set(members.count(role))


_EVENT_TYPES = {"BlocksStored": "stored", "BlocksRemoved": "removed", "BlocksCleared": "cleared"}
