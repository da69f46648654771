"""The prefill side: compute a prompt, push its KV into the pool of the decode worker that asked, answer.

The blocks of a prompt stay held from the first computed token until the push has ended, however it ends. A decode
worker that comes back on a new connection is attached only after everything for its old one has ended: its
`PoolAttached` therefore proves that this process writes nothing that was asked for before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from dynamoc.runtime.engines.protocol import Engine, EngineRequest, Prefilled, RequestKey
from dynamoc.runtime.kv.hashing import unpack_tokens
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
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
    TokenOutput,
    WrittenLayers,
)
from dynamoc.runtime.transports.protocol import (
    Completion,
    Outcome,
    Peer,
    Transfer,
    Transport,
    TransportError,
)
from dynamoc.runtime.worker.requests import Requests
from dynamoc.runtime.worker.telemetry import Telemetry

CONNECT_LIMIT_S = 15.0
"""A first connection between GPUs starts a child process that compiles the kernels."""
FIRST_RATE = 200e6
"""Bytes per second a transfer is taken to reach before one was measured."""
SLOWEST_SHARE = 0.1
"""A transfer slower than this share of the measured rate is stuck."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Lease:
    """One prompt computed for a decode worker. `computed` is None when it will not be."""

    key: RequestKey
    connection: Connection
    request: PrefillRequest
    expires_at: float
    computed: asyncio.Future[Prefilled | TokenOutput | None] = field(default_factory=asyncio.Future)
    transfer: Transfer | None = None

    def abort(self) -> None:
        """Stop as soon as possible; the answer says when."""
        if not self.computed.done():
            self.computed.set_result(None)
        if self.transfer is not None:
            self.transfer.cancel()


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
        self._rate = FIRST_RATE

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

    def computed(self, prefilled: Prefilled) -> None:
        """The engine computed a prompt."""
        lease = self._leases.get(prefilled.key)
        if lease is not None and not lease.computed.done():
            lease.computed.set_result(prefilled)

    def refused(self, output: TokenOutput) -> bool:
        """The engine will not compute a prompt; False if it is none of these."""
        lease = self._leases.get(output.request_id)
        if lease is not None and not lease.computed.done():
            lease.computed.set_result(output)
        return lease is not None

    def fail_all(self, reason: str) -> None:
        """End what is left: the worker goes."""
        for lease in self._leases.values():
            if not lease.computed.done():
                lease.computed.set_result(TokenOutput(lease.key, (), "error", error=reason, retryable=True))
            if lease.transfer is not None:
                lease.transfer.cancel()

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
        expires_at = asyncio.get_running_loop().time() + request.deadline_s
        lease = Lease(self._requests.new_key(), connection, request, expires_at)
        self._leases[lease.key] = lease
        self._spawn(connection, self._serve(lease))

    def _abort(self, connection: Connection, abort: AbortPrefill) -> None:
        for lease in self._leases.values():
            if lease.connection is connection and lease.request.generation == abort.generation:
                lease.abort()
                return
        _send(connection, PrefillAborted(abort.request_id, abort.generation))

    async def _serve(self, lease: Lease) -> None:
        request, timer = lease.request, asyncio.get_running_loop().call_at(lease.expires_at, lease.abort)
        try:
            answer = await self._answer(lease)
        except TransportError as error:
            answer = PrefillFailed(request.request_id, request.generation, str(error))
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
        computed = await lease.computed
        if computed is None:
            return PrefillAborted(*name)
        if isinstance(computed, TokenOutput):
            return PrefillFailed(*name, computed.error or "nothing to compute", computed.retryable)
        pairs = self._pairs(request, computed)
        completion = await self._push(lease, pairs)
        if completion.outcome is Outcome.CANCELLED:
            return PrefillAborted(*name)
        if completion.outcome is Outcome.FAILURE:
            return PrefillFailed(*name, f"transfer failed: {completion.reason}")
        written = WrittenLayers(0, self._engine.layout().layers, completion.checksums.astype("<u8").tobytes())
        transport = self._transport
        moved, seconds = completion.moved_bytes, completion.seconds
        return PrefillDone(*name, computed.output, transport.checksum, (written,), transport.name, moved, seconds)

    def _pairs(self, request: PrefillRequest, computed: Prefilled) -> BlockPairs:
        sources = computed.blocks[request.first_block :]
        if len(sources) != len(request.blocks):
            raise TransportError(f"{len(sources)} blocks were computed for {len(request.blocks)} destinations")
        return BlockPairs.of(sources, request.blocks)

    async def _push(self, lease: Lease, pairs: BlockPairs) -> Completion:
        peer = self.pools.get(lease.connection)
        if peer is None:
            raise TransportError("the decode worker is gone")
        size = len(pairs) * self._engine.layout().block_bytes
        left_s = lease.expires_at - asyncio.get_running_loop().time()
        deadline_s = min(1.0 + size / (SLOWEST_SHARE * self._rate), left_s)
        lease.transfer = self._transport.write(peer, pairs, deadline_s, lease.request.generation)
        with self._telemetry.transfer_under_way():
            completion = await lease.transfer.wait()
        self._telemetry.transferred(completion, len(pairs))
        if completion.outcome is Outcome.SUCCESS and size:
            self._rate += 0.2 * (size / max(completion.seconds, 1e-6) - self._rate)
        return completion


def _send(connection: Connection, message: Message) -> None:
    """Answer; a decode worker that is gone needs no answer."""
    with contextlib.suppress(PlaneError):
        connection.send(message)
