"""Who is registered: one life per worker name, one layout per component, and what each holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dynamoc.runtime.manifest import Manifest, Role
from dynamoc.runtime.plane.connection import Connection, Identity
from dynamoc.runtime.plane.messages import KvEvents, WorkerInfo
from dynamoc.runtime.router.cost import ASSUMED, Credits
from dynamoc.runtime.router.index import PrefixIndex, Status
from dynamoc.runtime.router.load import Load

QUEUED_BATCHES = 16.0
"""A worker is saturated when more than this many full batches of prompt tokens wait for it…"""
QUEUED_RUNS = 2
"""…or when it has this many times the sequences it can run: one set runs, one waits behind it."""


class RegistrationError(Exception):
    """A registration is not accepted; the message is final."""


class EventGapError(Exception):
    """Events of a worker were lost: what the index knows of it is wrong."""


@dataclass(slots=True, eq=False)
class Worker:
    """A registered worker."""

    info: WorkerInfo
    connection: Connection
    load: Load = field(default_factory=Load)
    credits: Credits = ASSUMED
    draining: bool = False
    next_event: int | None = None
    name: str = field(init=False)
    block_size: int = field(init=False)
    cache_tokens: int = field(init=False)
    backlog_tokens: float = field(init=False)
    backlog_requests: int = field(init=False)

    def __post_init__(self) -> None:
        info = self.info
        self.name, self.block_size = info.address.name, info.block_size
        self.cache_tokens = info.blocks * info.block_size
        self.backlog_tokens = QUEUED_BATCHES * info.max_batched_tokens
        self.backlog_requests = QUEUED_RUNS * info.max_sequences

    @property
    def life(self) -> str:
        """Name and incarnation, as `avoid` spells them."""
        return f"{self.name}@{self.info.address.incarnation}"

    @property
    def is_saturated(self) -> bool:
        """Whether more work would only wait there."""
        load = self.load
        return (
            load.prefill_tokens > self.backlog_tokens or load.requests + load.unseen_requests >= self.backlog_requests
        )

    def fits(self, prompt_tokens: int, max_tokens: int) -> bool:
        """Whether a request of that size can run there at all."""
        return prompt_tokens + max_tokens <= self.info.context_length and prompt_tokens <= self.cache_tokens


class Pool:
    """Workers that do the same, none of them draining."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self._least_context = min((worker.info.context_length for worker in workers), default=0)
        self._least_cache = min((worker.cache_tokens for worker in workers), default=0)

    def fitting(self, prompt_tokens: int, max_tokens: int) -> list[Worker]:
        """Those that a request of that size fits."""
        if prompt_tokens + max_tokens <= self._least_context and prompt_tokens <= self._least_cache:
            return self.workers
        return [worker for worker in self.workers if worker.fits(prompt_tokens, max_tokens)]


class Membership:
    """The registered workers. A worker is in the index exactly while it is registered."""

    def __init__(self, manifest: Manifest) -> None:
        self.index = PrefixIndex()
        self.prefill = Pool([])
        """Workers for the prompt alone."""
        self.serving = Pool([])
        """Workers that produce tokens."""
        self.block_sizes: frozenset[int] = frozenset()
        self._declared = {process.name: process for process in manifest.processes if process.role.is_worker}
        self._workers: dict[str, Worker] = {}
        self._last: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    @property
    def usable(self) -> list[Worker]:
        """All workers that may be given work."""
        return self.prefill.workers + self.serving.workers

    def count(self, role: Role) -> int:
        """How many workers of a role are registered."""
        return sum(worker.info.role == role for worker in self._workers.values())

    def get(self, name: str) -> Worker | None:
        """The registered worker of that name."""
        return self._workers.get(name)

    def check(self, info: WorkerInfo, peer: Identity) -> None:
        """RegistrationError with the reason, if this worker may not register."""
        name, life = info.address.name, info.address.incarnation
        if (name, life) != (peer.name, peer.incarnation):
            raise RegistrationError(f"`{peer.name}` cannot register for `{name}`")
        declared = self._declared.get(name)
        if declared is None:
            raise RegistrationError(f"`{name}` is not a worker of this plan")
        if (info.component, info.role) != (declared.component, declared.role):
            raise RegistrationError(
                f"`{name}` is {declared.role} of `{declared.component}`, not {info.role} of `{info.component}`"
            )
        last = self._last.get(name)
        if last is not None and life < last.info.address.incarnation:
            raise RegistrationError(f"incarnation {life} is stale: {last.info.address.incarnation} has registered")
        for other in self:
            if other.name != name and other.info.component == info.component:
                _check_alike(info, other.info)

    def add(self, info: WorkerInfo, connection: Connection) -> Worker:
        """Register a checked worker whose earlier life is removed. The same life keeps its load."""
        last = self._last.get(info.address.name)
        worker = Worker(info, connection)
        if last is not None and last.life == worker.life:
            worker.load = last.load
        self._workers[worker.name] = self._last[worker.name] = worker
        self.index.add_worker(worker.name)
        self._changed()
        return worker

    def remove(self, worker: Worker) -> None:
        """Forget a worker and its blocks at once."""
        del self._workers[worker.name]
        self.index.remove_worker(worker.name)
        self._changed()

    def drain(self, worker: Worker) -> None:
        """Give the worker nothing new."""
        worker.draining = True
        self._changed()

    def apply(self, worker: Worker, events: KvEvents) -> list[Status]:
        """Take in a batch of KV events; what became of each. EventGapError if some are missing before it."""
        if worker.next_event is not None and worker.next_event != events.first_id:
            raise EventGapError(f"KV event {worker.next_event} was due, {events.first_id} came")
        worker.next_event = events.first_id + len(events.events)
        return [self.index.apply(worker.name, event) for event in events.events]

    def _changed(self) -> None:
        usable = [worker for worker in self if not worker.draining]
        self.prefill = Pool([worker for worker in usable if worker.info.role == Role.PREFILL])
        self.serving = Pool([worker for worker in usable if worker.info.role != Role.PREFILL])
        self.block_sizes = frozenset(worker.block_size for worker in usable)


def _check_alike(info: WorkerInfo, other: WorkerInfo) -> None:
    if info.block_size != other.block_size:
        raise RegistrationError(f"block size {info.block_size}, but `{other.address.name}` has {other.block_size}")
    if info.layout_digest != other.layout_digest:
        raise RegistrationError(f"KV layout {info.layout_digest}, but `{other.address.name}` has {other.layout_digest}")
