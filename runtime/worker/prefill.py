"""The prefill side: compute a prompt, push its KV into the pool of the decode worker that asked, answer.

The blocks of a prompt stay held from the first computed token until every push has ended, however it ends. A decode
worker that comes back on a new connection is attached only after everything for its old one has ended: its
`PoolAttached` therefore proves that this process writes nothing that was asked for before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from dynamoc.runtime.engines.protocol import Engine, EngineRequest, Prefilled, RequestKey, Written
from dynamoc.runtime.kv.hashing import unpack_tokens
from dynamoc.runtime.plane.connection import Connection, PlaneError
from dynamoc.runtime.plane.messages import (
    AbortPrefill,
    AttachPool,
    Message,
    PoolAttached,
    PrefillAborted,
    PrefillDone,
    PrefillFailed,
    PrefillRequest,
    PrefillWritten,
    TokenOutput,
    WrittenLayers,
)
from dynamoc.runtime.transports.protocol import Peer, Transport, TransportError
from dynamoc.runtime.worker.pushes import Pace, Pushes
from dynamoc.runtime.worker.requests import Requests
from dynamoc.runtime.worker.telemetry import Telemetry

CONNECT_LIMIT_S = 15.0
"""A first connection between GPUs starts a child process that compiles the kernels."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Lease:
    """One prompt computed for a decode worker. `computed` is None when it will not be."""

    key: RequestKey
    connection: Connection
    request: PrefillRequest
    pushes: Pushes
    computed: asyncio.Future[Prefilled | TokenOutput | None] = field(default_factory=asyncio.Future)

    def end(self, computed: Prefilled | TokenOutput | None) -> None:
        """Nothing more of the prompt will be computed."""
        if not self.computed.done():
            self.computed.set_result(computed)

    def abort(self) -> None:
        """Stop as soon as possible; the answer says when."""
        self.end(None)
        self.pushes.stop()


class PrefillService:
    """Prompts computed for others."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        layout_digest: str,
        requests: Requests,
        telemetry: Telemetry,
        on_peers: Callable[[], None],
    ) -> None:
        self.pools: dict[Connection, Peer] = {}
        """The attached pools."""
        self.refusal = ""
        """Why nothing new is taken; empty if it is."""
        self._engine = engine
        self._transport = transport
        self._layout_digest = layout_digest
        self._requests = requests
        self._telemetry = telemetry
        self._on_peers = on_peers
        self._leases: dict[RequestKey, Lease] = {}
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._pace = Pace()

    @property
    def busy(self) -> int:
        """Prompts that are not answered yet."""
        return len(self._leases)

    def received(self, connection: Connection, message: Message) -> None:
        """A message of a decode worker."""
        if isinstance(message, AttachPool):
            self._spawn(connection, self._attach(connection, message, self._earlier(connection)))
        elif isinstance(message, PrefillRequest):
            self._take(connection, message)
        elif isinstance(message, AbortPrefill):
            self._abort(connection, message)
        else:
            connection.abort(f"unexpected {type(message).__name__} from a decode worker")

    def closed(self, connection: Connection) -> None:
        """The decode worker is lost: stop writing to it."""
        for lease in self._leases.values():
            if lease.connection is connection:
                lease.abort()
        peer = self.pools.pop(connection, None)
        if peer is not None:
            peer.close()
            self._on_peers()

    def written(self, written: Written) -> None:
        """The engine has more of a prompt's KV."""
        lease = self._leases.get(written.key)
        if lease is not None:
            lease.pushes.written(written)

    def computed(self, prefilled: Prefilled) -> None:
        """The engine computed a prompt."""
        lease = self._leases.get(prefilled.key)
        if lease is not None:
            lease.end(prefilled)

    def refused(self, output: TokenOutput) -> bool:
        """The engine will not compute a prompt; False if it is none of these."""
        lease = self._leases.get(output.request_id)
        if lease is not None:
            lease.end(output)
        return lease is not None

    def fail_all(self, reason: str) -> None:
        """End what is left: the worker goes."""
        for lease in self._leases.values():
            lease.end(TokenOutput(lease.key, (), "error", error=reason, retryable=True))
            lease.pushes.stop()

    async def close(self) -> None:
        """Wait until nothing is written any more."""
        for lease in self._leases.values():
            lease.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- inside -------------------------------------------------------------------------------------------

    def _spawn(self, connection: Connection, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work for %s failed", connection.peer.name, exc_info=error)
            connection.abort("work for it failed")

    def _earlier(self, connection: Connection) -> list[asyncio.Task[None]]:
        """What still runs for the same worker on connections it had before."""
        return [t for t, c in self._tasks.items() if c is not connection and c.peer.name == connection.peer.name]

    async def _attach(self, connection: Connection, offer: AttachPool, earlier: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*earlier, return_exceptions=True)
        reason = ""
        if offer.transport != self._transport.name:
            reason = f"transport `{offer.transport}` was offered, the plan gave me `{self._transport.name}`"
        elif offer.layout_digest != self._layout_digest:
            reason = f"KV layout {offer.layout_digest} was offered, mine is {self._layout_digest}"
        else:
            try:
                self.pools[connection] = await self._transport.connect(offer.metadata, CONNECT_LIMIT_S)
            except TransportError as error:
                reason = str(error)
        if reason:
            log.error("cannot write to the pool of %s: %s", connection.peer.name, reason)
        elif not connection.is_open:
            self.pools.pop(connection).close()
            return
        self._on_peers()
        answer = PoolAttached(self._transport.name, not reason, reason, self._transport.writer())
        _send(connection, answer)

    def _take(self, connection: Connection, request: PrefillRequest) -> None:
        refusal = self.refusal or ("" if connection in self.pools else "no pool is attached")
        if refusal:
            _send(connection, PrefillFailed(request.request_id, request.generation, refusal))
            return
        lease = self._lease(connection, request)
        self._leases[lease.key] = lease
        timer = asyncio.get_running_loop().call_later(request.deadline_s, lease.abort)
        self._spawn(connection, self._serve(lease, timer))

    def _lease(self, connection: Connection, request: PrefillRequest) -> Lease:
        expires_at = asyncio.get_running_loop().time() + request.deadline_s
        layout, telemetry = self._engine.layout(), self._telemetry

        def peer() -> Peer | None:
            return self.pools.get(connection)

        def on_arrived(part: WrittenLayers) -> None:
            _send(connection, PrefillWritten(request.request_id, request.generation, (part,)))

        pushes = Pushes(self._transport, layout, request, peer, expires_at, self._pace, telemetry)
        lease = Lease(self._requests.new_key(), connection, request, pushes)
        pushes.on_arrived, pushes.on_failed = on_arrived, lease.abort
        return lease

    def _abort(self, connection: Connection, abort: AbortPrefill) -> None:
        for lease in self._leases.values():
            if lease.connection is connection and lease.request.generation == abort.generation:
                lease.abort()
                return
        _send(connection, PrefillAborted(abort.request_id, abort.generation))

    async def _serve(self, lease: Lease, timer: asyncio.TimerHandle) -> None:
        try:
            answer = await self._answer(lease)
        finally:
            timer.cancel()
            self._engine.cancel(lease.key)
            self._engine.release(lease.key)
            del self._leases[lease.key]
        _send(lease.connection, answer)

    async def _answer(self, lease: Lease) -> PrefillDone | PrefillFailed | PrefillAborted:
        """Compute, push, say what came of it."""
        request = lease.request
        name = (request.request_id, request.generation)
        tokens = unpack_tokens(request.tokens)
        self._engine.add(EngineRequest(lease.key, tokens, request.sampling, request.generated, hold_kv=True))
        computed, computed_at = await lease.computed, time.monotonic()
        await lease.pushes.settle()
        pushes = lease.pushes
        if pushes.failure:
            return PrefillFailed(*name, pushes.failure)
        if isinstance(computed, TokenOutput):
            return PrefillFailed(*name, computed.error or "nothing to compute", computed.retryable)
        if computed is None or pushes.is_stopped:
            return PrefillAborted(*name)
        if pushes.complete != len(request.blocks):
            return PrefillFailed(
                *name, f"{pushes.complete} blocks were computed for {len(request.blocks)} destinations"
            )
        checksum, by = self._transport.checksum, self._transport.name
        moved, seconds, waited_s = pushes.moved_bytes, pushes.seconds, time.monotonic() - computed_at
        return PrefillDone(*name, computed.output, checksum, by, moved, seconds, pushes.age_s, waited_s)


def _send(connection: Connection, message: Message) -> None:
    """Answer; a decode worker that is gone needs no answer."""
    with contextlib.suppress(PlaneError):
        connection.send(message)
