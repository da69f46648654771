"""One worker, put together: engine, transport, plane, router, peers; and the order in which it all ends."""

from __future__ import annotations

import asyncio
import logging

from dynamoc.runtime.engines.generator import Capacity, Generator
from dynamoc.runtime.engines.protocol import Engine, StepReport, Written
from dynamoc.runtime.manifest import Role, WorkerSettings
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.plane.connection import PlaneServer, listen
from dynamoc.runtime.plane.messages import AttachPool, Registered, WorkerAddress, WorkerInfo
from dynamoc.runtime.process import Context
from dynamoc.runtime.transports.protocol import Transport
from dynamoc.runtime.transports.registry import make_transport
from dynamoc.runtime.worker.decode import DecodeService
from dynamoc.runtime.worker.inheritance import Inheritance
from dynamoc.runtime.worker.prefill import PrefillService
from dynamoc.runtime.worker.prefill_peer import PrefillPeer
from dynamoc.runtime.worker.report import write_report
from dynamoc.runtime.worker.requests import Requests
from dynamoc.runtime.worker.router_link import RouterLink
from dynamoc.runtime.worker.service import Service
from dynamoc.runtime.worker.telemetry import Telemetry

GOODBYE_S = 1.0
"""How long peers have to read their last answers."""
DRAIN_LOOK_S = 0.02
REQUESTS_PER_SLOT = 16
"""Requests taken for each sequence the engine can run; more are refused."""

log = logging.getLogger(__name__)


class Worker:
    """A loaded engine at work. `failure` says why the process must not exit with 0.

    `exchange` is the same engine where we move its KV; None where it does so itself, by whatever means.
    """

    def __init__(
        self,
        context: Context,
        engine: Generator,
        capacity: Capacity,
        stop: asyncio.Event,
        *,
        exchange: Engine | None,
    ) -> None:
        assert context.spec.worker is not None
        self.failure = ""
        self._context = context
        self._settings: WorkerSettings = context.spec.worker
        self._engine = engine
        self._capacity = capacity
        self._exchange = exchange
        self._stop = stop
        self._metrics = Metrics()
        self._telemetry = Telemetry(self._metrics, self._settings.transport)
        self._requests = Requests(REQUESTS_PER_SLOT * self._settings.max_sequences, engine.cancel)
        self._digest = capacity.digest
        self._sends_to, self._receives_from = kv_peers(context)
        self._transport = self._make_transport()
        self._prefill = self._make_prefill()
        self._decode = self._make_decode()
        self._service = Service(
            engine, self._requests, self._telemetry, self._fail, prefill=self._prefill, decode=self._decode
        )
        self._server: PlaneServer | None = None
        self._router: RouterLink | None = None
        self._inheritance: Inheritance | None = None
        self._peers: dict[str, PrefillPeer] = {}
        self._ports: dict[str, int] = {}
        self._is_ready = False

    async def start(self) -> None:
        """Bind, start the engine, dial. OSError or TransportError if the plan cannot be kept."""
        context, loop = self._context, asyncio.get_running_loop()
        identity = context.identity
        self._metrics.gauge("dynamoc_info").labels(identity.name, identity.role, str(identity.incarnation)).set(1)
        if "metrics" in context.spec.ports:
            self._metrics.serve(*context.endpoint(identity.name, "metrics"))
            self._ports["metrics"] = context.spec.ports["metrics"]
        if self._transport is not None:
            await self._start_transport(self._transport)

        def on_step(report: StepReport) -> None:
            loop.call_soon_threadsafe(self._service.step, report)

        def on_written(written: Written) -> None:
            if self._prefill is not None:
                loop.call_soon_threadsafe(self._prefill.written, written)

        self._engine.start(on_step, None if self._prefill is None else on_written)
        self._inherit()
        host, port = context.endpoint(identity.name, "plane")
        self._server = await listen(host, port, identity, context.key, self._service)
        self._ports["plane"] = self._server.port
        self._start_peers()
        self._start_router(WorkerAddress(identity.name, identity.incarnation, host, self._server.port))

    async def drain(self, limit_s: float) -> None:
        """Finish what runs within `limit_s` (after a failure nothing does); another worker may take the rest."""
        loop = asyncio.get_running_loop()
        self._service.refuse(self.failure or "the worker is draining")
        if self._router is not None:
            self._router.drain()
        until = loop.time() + limit_s
        while self._service.busy and loop.time() < until and not self.failure:  # noqa: ASYNC110  (requests end in many ways)
            await asyncio.sleep(DRAIN_LOOK_S)
        if self._service.busy:
            log.warning("%d requests did not finish", self._service.busy)
        self._service.fail_all(self.failure or "the worker is stopping")

    async def close(self) -> None:
        """Stop everything, last comer first."""
        if self._router is not None:
            await self._router.close()
        if self._prefill is not None:
            await self._prefill.close()
        if self._decode is not None:
            await self._decode.close()
        for peer in self._peers.values():
            await peer.close()
        if self._inheritance is not None:
            await self._inheritance.close()
        if self._server is not None:
            await self._server.close()
        await self._service.close(GOODBYE_S)
        if self._transport is not None:
            await self._transport.close()
        await asyncio.to_thread(self._metrics.close)

    # ---- putting together ---------------------------------------------------------------------------------

    def _make_transport(self) -> Transport | None:
        name = self._settings.transport
        if self._exchange is None:
            return None
        if name is None:
            if self._sends_to or self._receives_from:
                raise ValueError(
                    f"`{self._context.spec.name}` has a kv edge, but the plan declares no transport for it"
                )
            return None
        transport = make_transport(name, self._context.key)
        transport.register(self._exchange.pool())
        return transport

    def _make_prefill(self) -> PrefillService | None:
        if self._exchange is None or self._transport is None or not self._sends_to:
            return None
        return PrefillService(
            self._exchange, self._transport, self._digest, self._requests, self._telemetry, self._report_peers
        )

    def _make_decode(self) -> DecodeService | None:
        if self._exchange is None or self._transport is None or not self._receives_from:
            return None
        return DecodeService(self._exchange, self._transport, self._requests, self._telemetry)

    async def _start_transport(self, transport: Transport) -> None:
        await transport.prepare(self._context.host)
        if self._decode is None:
            return  # a worker that only sends has nothing to listen for
        host, ports = self._context.host, self._context.spec.ports
        bound = await transport.start(host, ports.get("kv", 0))
        if bound is not None:
            self._ports["kv"] = bound

    def _inherit(self) -> None:
        keeping = None if self._exchange is None else self._exchange.keeping()
        if keeping is not None:
            self._inheritance = Inheritance(keeping, self._transport, self._metrics, self._unkept)
            self._inheritance.start()

    def _start_peers(self) -> None:
        if self._exchange is None:
            self._service.sources = self._receives_from
        if self._transport is None or self._decode is None:
            return
        offer = AttachPool(self._transport.name, self._transport.metadata(), self._digest)
        for name in self._receives_from:
            self._peers[name] = PrefillPeer(self._context, name, offer, self._decode, self._peers_changed)
            self._peers[name].start()
        self._service.peers = self._peers

    def _start_router(self, address: WorkerAddress) -> None:
        routers = self._context.manifest.of_role(Role.ROUTER)
        if not routers:
            self._ready()
            return
        settings, manifest = self._settings, self._context.manifest
        info = WorkerInfo(
            address=address,
            component=self._context.spec.component,
            role=self._context.spec.role,
            model=manifest.model.served_name,
            engine=self._engine.name,
            block_size=self._capacity.block_size,
            blocks=self._capacity.blocks,
            context_length=settings.context_length,
            max_batched_tokens=settings.max_batched_tokens,
            max_sequences=settings.max_sequences,
            layout_digest=self._digest,
            transport=settings.transport,
        )
        self._router = RouterLink(self._context, routers[0].name, info, self._engine, self._registered)
        self._service.router = self._router
        self._router.start()

    # ---- what happens -------------------------------------------------------------------------------------

    def _registered(self, answer: Registered) -> None:
        if answer.accepted:
            self._ready()
        else:
            self._fail(f"the router refused this worker: {answer.reason}")
        self._report_peers()

    def _ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._context.notifier.ready(ports=self._ports)
            log.info("ready on %s", self._ports)
        self._report_peers()

    def _fail(self, reason: str) -> None:
        log.critical("%s", reason)
        self.failure = reason
        self._stop.set()

    def _unkept(self) -> None:
        """Memory of a host stays with whoever maps it; what a dead process had on a GPU need not."""
        if self._exchange is not None and self._exchange.pool().device is not None:
            self._fail("the memory service is gone, and with it what the KV pool is made of")

    def _peers_changed(self) -> None:
        """Nobody is asked to write before it is recorded that it may."""
        if self._inheritance is not None:
            for peer in self._peers.values():
                if peer.is_attached:
                    self._inheritance.attached(peer.writer)
        self._report_peers()

    def _report_peers(self) -> None:
        """Refresh the echo report."""
        if self._engine.name != "echo":
            return
        write_report(
            self._context,
            self._ports,
            registered=self._router is not None and self._router.is_registered,
            prefill_workers=[peer.name for peer in self._peers.values() if peer.is_attached],
            decode_workers=[c.peer.name for c in self._prefill.pools] if self._prefill is not None else [],
        )


def kv_peers(context: Context) -> tuple[list[str], list[str]]:
    """The workers this one sends KV to, and those it receives from, by the plan's kv edges."""
    here = context.spec.component
    workers = [process for process in context.manifest.processes if process.role.is_worker]
    targets = {e.target for e in context.manifest.edges if e.kind == "kv" and e.source == here}
    sources = {e.source for e in context.manifest.edges if e.kind == "kv" and e.target == here}
    return [w.name for w in workers if w.component in targets], [w.name for w in workers if w.component in sources]
