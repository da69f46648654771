"""The router's plane: registrations, KV events and load from workers; requests from frontends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from dynamoc.runtime.kv.hashing import TOKEN_BYTES
from dynamoc.runtime.manifest import Manifest, Role, RouterSettings
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.plane.connection import Connection, PlaneError
from dynamoc.runtime.plane.messages import (
    Draining,
    KvEvents,
    LoadReport,
    Message,
    PromptComputed,
    Registered,
    RegisterWorker,
    RequestEnded,
    Routed,
    RouteRefused,
    RouteRequest,
    Workers,
    WorkersWanted,
)
from dynamoc.runtime.router.cost import credits_of
from dynamoc.runtime.router.load import Charge
from dynamoc.runtime.router.membership import EventGapError, Membership, RegistrationError, Worker
from dynamoc.runtime.router.placement import Blocked, Placement, Placer
from dynamoc.runtime.router.queue import Ask, WaitingQueue
from dynamoc.runtime.router.telemetry import Telemetry

log = logging.getLogger(__name__)

Receivers = Mapping[type[Message], Callable[[Connection, Any], None]]


class Service:
    """Turns messages into decisions. Everything happens on the event loop, one message at a time."""

    def __init__(self, manifest: Manifest, settings: RouterSettings, metrics: Metrics, rng: Random) -> None:
        self.members = Membership(manifest)
        self._placer = Placer(self.members, settings, rng)
        self._queue = WaitingQueue(settings.queue_capacity, settings.queue_timeout_s)
        self._telemetry = Telemetry(metrics)
        self._telemetry.watch_queue(lambda: len(self._queue))
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._connections: set[Connection] = set()
        self._alone: asyncio.Event | None = None
        self._workers: dict[Connection, Worker] = {}
        self._charges: dict[Connection, dict[int, Charge]] = {}
        self._from_frontends: Receivers = {
            RouteRequest: self._route,
            PromptComputed: self._prompt_computed,
            RequestEnded: self._request_ended,
            WorkersWanted: self._workers_wanted,
        }
        self._from_workers: Receivers = {
            KvEvents: self._kv_events,
            LoadReport: self._load_report,
            Draining: self._draining,
        }
        self._from_strangers: Receivers = {RegisterWorker: self._register}

    # ---- connections ------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A frontend may ask from now on; a worker must register first."""
        self._connections.add(connection)
        if connection.peer.role == Role.FRONTEND:
            self._charges[connection] = {}

    def received(self, connection: Connection, message: Message) -> None:
        """Hand the message to its receiver; who sends what it may not send is cut off."""
        if connection in self._charges:
            receivers = self._from_frontends
        elif connection in self._workers:
            receivers = self._from_workers
        else:
            receivers = self._from_strangers
        receiver = receivers.get(type(message))
        if receiver is None:
            self._cut_off(connection, f"the router takes no {type(message).__name__} from this peer now")
            return
        receiver(connection, message)

    def closed(self, connection: Connection, reason: str) -> None:
        """Whatever the peer had is gone with it."""
        self._connections.discard(connection)
        if self._alone is not None and not self._connections:
            self._alone.set()
        worker = self._workers.pop(connection, None)
        if worker is not None:
            self._forget(worker, reason)
        charges = self._charges.pop(connection, None)
        if charges is not None:
            for charge in charges.values():
                charge.ended()
            for _ in self._queue.remove_owner(connection):
                self._telemetry.count("cancelled")
            self._serve_queue()

    async def stop(self, grace_s: float) -> None:
        """Refuse what waits, then close every connection; a peer has `grace_s` to read its last answers."""
        for ask in self._queue:
            self._queue.remove(ask.owner, ask.request_id)
            self._refuse(ask, "no_worker", "the router is stopping")
        self._set_timer()
        for connection in tuple(self._connections):
            connection.close("the router is stopping")
        if self._connections:
            self._alone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._alone.wait(), grace_s)
        for connection in tuple(self._connections):
            connection.abort("did not read its last answers")

    # ---- workers ----------------------------------------------------------------------------------------

    def _register(self, connection: Connection, message: RegisterWorker) -> None:
        info = message.worker
        try:
            self.members.check(info, connection.peer)
        except RegistrationError as error:
            log.warning("refused %s: %s", connection.peer.name, error)
            self._send(connection, Registered(accepted=False, reason=str(error)))
            connection.close(str(error))
            return
        earlier = self.members.get(info.address.name)
        if earlier is not None:
            self._cut_off(earlier.connection, f"incarnation {info.address.incarnation} registered")
        worker = self._workers[connection] = self.members.add(info, connection)
        self._telemetry.members_changed(self.members)
        log.info("registered %s, %s of %s", worker.life, info.role, info.component)
        self._send(connection, Registered(accepted=True))
        self._serve_queue()

    def _kv_events(self, connection: Connection, message: KvEvents) -> None:
        worker = self._workers[connection]
        try:
            statuses = self.members.apply(worker, message)
        except EventGapError as error:
            self._telemetry.count_gap()
            self._cut_off(connection, f"{error}: register again")
            return
        for event, status in zip(message.events, statuses, strict=True):
            self._telemetry.count_event(type(event).__name__, status)
        self._telemetry.index_changed(worker.name, self.members.index.blocks(worker.name))

    def _load_report(self, connection: Connection, message: LoadReport) -> None:
        worker = self._workers[connection]
        worker.load.reported(message.running + message.waiting, message.active_blocks)
        worker.credits = credits_of(message.tier_credits)
        self._serve_queue()

    def _draining(self, connection: Connection, _: Draining) -> None:
        self.members.drain(self._workers[connection])

    def _forget(self, worker: Worker, reason: str) -> None:
        self.members.remove(worker)
        self._telemetry.forget(worker.name)
        self._telemetry.members_changed(self.members)
        log.warning("lost %s: %s", worker.life, reason)

    def _cut_off(self, connection: Connection, reason: str) -> None:
        worker = self._workers.pop(connection, None)
        if worker is not None:
            self._forget(worker, reason)
        else:
            log.warning("closing the connection of %s: %s", connection.peer.name, reason)
        connection.close(reason)

    # ---- frontends --------------------------------------------------------------------------------------

    def _route(self, connection: Connection, message: RouteRequest) -> None:
        if not message.tokens or len(message.tokens) % TOKEN_BYTES:
            self._cut_off(connection, f"request {message.request_id} has {len(message.tokens)} bytes of tokens")
            return
        self._release(connection, message.request_id)
        avoid = frozenset(message.avoid)
        ask = Ask(connection, message.request_id, message.tokens, message.max_tokens, avoid)
        reason = self._placer.too_long(ask)
        if reason is not None:
            self._refuse(ask, "too_long", reason)
        elif self._try(ask) is not None:
            self._enqueue(ask)

    def _prompt_computed(self, connection: Connection, message: PromptComputed) -> None:
        charge = self._charges[connection].get(message.request_id)
        if charge is not None:
            charge.prompt_computed()
            self._serve_queue()

    def _request_ended(self, connection: Connection, message: RequestEnded) -> None:
        self._release(connection, message.request_id)
        self._serve_queue()

    def _workers_wanted(self, connection: Connection, _: WorkersWanted) -> None:
        self._send(connection, Workers(tuple(worker.info for worker in self.members.usable)))

    def _release(self, connection: Connection, request_id: int) -> None:
        """Take back what a request was charged, or its place in the queue."""
        charge = self._charges[connection].pop(request_id, None)
        if charge is not None:
            charge.ended()
        elif self._queue.remove(connection, request_id) is not None:
            self._telemetry.count("cancelled")

    # ---- decisions --------------------------------------------------------------------------------------

    def _try(self, ask: Ask) -> Blocked | None:
        """Place a request and tell its frontend, or say why it must wait."""
        started = time.perf_counter()
        placement = self._placer.place(ask)
        if isinstance(placement, Blocked):
            return placement
        self._commit(ask, placement)
        self._telemetry.count_placement(placement, time.perf_counter() - started)
        return None

    def _commit(self, ask: Ask, placement: Placement) -> None:
        placement.charge.add()
        self._charges[ask.owner][ask.request_id] = placement.charge
        prefill = placement.prefill
        answer = Routed(
            ask.request_id,
            placement.worker.info.address,
            None if prefill is None else prefill.info.address,
            placement.overlap_blocks,
        )
        self._send(ask.owner, answer)

    def _refuse(self, ask: Ask, code: str, reason: str) -> None:
        self._telemetry.count(code)
        self._send(ask.owner, RouteRefused(ask.request_id, code, reason))

    def _enqueue(self, ask: Ask) -> None:
        if self._queue.push(ask, self._loop.time()):
            self._set_timer()
        else:
            self._refuse(ask, "overloaded", f"{len(self._queue)} requests wait for a worker already")

    def _serve_queue(self) -> None:
        """Place what can be placed, in order. Only a request that is picky about workers lets others pass.

        It follows every event that makes room, so a request that has just come takes room from none that waits.
        """
        if not self._queue or not self._placer.has_room():
            return
        for ask in self._queue:
            blocked = self._try(ask)
            if blocked is None:
                self._queue.remove(ask.owner, ask.request_id)
            elif not self._placer.is_picky(ask):
                break
        self._set_timer()

    def _expire(self) -> None:
        self._timer = None
        for ask in self._queue.expire(self._loop.time()):
            self._refuse(ask, *self._why_late(ask))
        self._set_timer()

    def _why_late(self, ask: Ask) -> tuple[str, str]:
        reason = self._placer.too_long(ask)  # nobody was there to tell when it came
        if reason is not None:
            return "too_long", reason
        if self._placer.place(ask) is Blocked.NO_WORKER:
            return "no_worker", "no worker that may take the request has registered"
        return "timeout", "all workers had more work than they can run"

    def _set_timer(self) -> None:
        """Wake up at the deadline of the queue's first request."""
        due = self._queue.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._expire)

    def _send(self, connection: Connection, message: Message) -> None:
        try:
            connection.send(message)
        except PlaneError as error:
            log.warning("%s not sent: %s", type(message).__name__, error)  # `closed` cleans up
