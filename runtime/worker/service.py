"""The worker's plane: requests of frontends, prompts for decode workers, and what the engine reports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping

from dynamoc.runtime.engines.generator import Generator
from dynamoc.runtime.engines.protocol import EngineRequest, StepReport
from dynamoc.runtime.kv.hashing import unpack_tokens
from dynamoc.runtime.manifest import Role
from dynamoc.runtime.plane.connection import Connection
from dynamoc.runtime.plane.messages import Cancel, Generate, Message, TokenOutput
from dynamoc.runtime.worker.decode import DecodeService
from dynamoc.runtime.worker.prefill import PrefillService
from dynamoc.runtime.worker.prefill_peer import PrefillPeer
from dynamoc.runtime.worker.requests import Requests, send_outputs
from dynamoc.runtime.worker.router_link import RouterLink
from dynamoc.runtime.worker.telemetry import Telemetry

log = logging.getLogger(__name__)


class Service:
    """Turns messages into work for the engine, and its reports into messages. All of it on the event loop.

    `prefill` and `decode` are there if the plan moves KV out of, or into, this worker; `peers` are the prefill
    workers by name. `sources` are the prefill workers of an engine that moves KV itself.
    """

    def __init__(
        self,
        engine: Generator,
        requests: Requests,
        telemetry: Telemetry,
        on_failure: Callable[[str], None],
        *,
        prefill: PrefillService | None,
        decode: DecodeService | None,
    ) -> None:
        self.router: RouterLink | None = None
        self.peers: Mapping[str, PrefillPeer] = {}
        self.sources: Collection[str] = ()
        self._engine = engine
        self._requests = requests
        self._telemetry = telemetry
        self._on_failure = on_failure
        self._prefill = prefill
        self._decode = decode
        self._connections: set[Connection] = set()
        self._alone = asyncio.Event()
        self._refusal = ""

    @property
    def busy(self) -> int:
        """Requests that are not finished, those of decode workers included."""
        return len(self._requests) + (self._prefill.busy if self._prefill is not None else 0)

    # ---- Handler ------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A frontend or a decode worker is here."""
        self._connections.add(connection)
        self._alone.clear()

    def received(self, connection: Connection, message: Message) -> None:
        """Work, or the end of some."""
        if isinstance(message, Generate):
            self._generate(connection, message)
        elif isinstance(message, Cancel):
            self._requests.cancel(connection, message.request_id)
        elif self._prefill is not None and connection.peer.role != Role.FRONTEND:
            self._prefill.received(connection, message)
        else:
            connection.abort(f"a worker without a KV edge to this peer takes no {type(message).__name__}")

    def closed(self, connection: Connection, reason: str) -> None:
        """Whatever the peer wanted, nobody waits for it."""
        log.info("%s left: %s", connection.peer.name, reason)
        self._connections.discard(connection)
        self._requests.drop_connection(connection)
        if self._prefill is not None:
            self._prefill.closed(connection)
        if not self._connections:
            self._alone.set()

    # ---- the engine ---------------------------------------------------------------------------------------

    def step(self, report: StepReport) -> None:
        """Everything one engine step brought."""
        for prefilled in report.prefilled:
            if self._prefill is not None:
                self._prefill.computed(prefilled)
        for reserved in report.reserved:
            if self._decode is not None:
                self._decode.reserved(reserved)
        for filled in report.filled:
            if self._decode is not None:
                self._decode.filled(filled)
        self._requests.deliver([output for output in report.outputs if not self._is_refusal(output)])
        if self.router is not None:
            self.router.events(report.events)
            self.router.load(report.stats)
        self._telemetry.step(report.stats)
        if report.tiers is not None:
            self._telemetry.tiers.step(report.tiers)
        if report.failure is not None:
            self._on_failure(report.failure)

    # ---- the end ------------------------------------------------------------------------------------------

    def refuse(self, reason: str) -> None:
        """Take nothing new from now on."""
        self._refusal = reason
        if self._prefill is not None:
            self._prefill.refusal = reason

    def fail_all(self, reason: str) -> None:
        """End everything with an error that another worker may cure."""
        self._requests.fail_all(reason)
        if self._prefill is not None:
            self._prefill.fail_all(reason)

    async def close(self, grace_s: float) -> None:
        """Hang up on everyone; they have `grace_s` to read their last answers."""
        for connection in tuple(self._connections):
            connection.close("the worker is stopping")
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._alone.wait(), grace_s)
        for connection in tuple(self._connections):
            connection.abort("did not read its last answers")

    # ---- inside -------------------------------------------------------------------------------------------

    def _generate(self, connection: Connection, generate: Generate) -> None:
        if self._refusal:
            output = TokenOutput(generate.request_id, (), "error", error=self._refusal, retryable=True)
            send_outputs(connection, [output])
            return
        refusal = self._requests.refusal(connection, generate) or self._unknown_prefill(generate)
        if refusal is not None:
            send_outputs(connection, [refusal])
            return
        request = self._requests.add(connection, generate)
        if generate.prefill is not None and self._decode is not None:
            self._decode.serve(request, self.peers[generate.prefill.name])
        else:
            tokens, source = unpack_tokens(generate.tokens), generate.prefill.name if generate.prefill else None
            self._engine.add(EngineRequest(request.key, tokens, generate.sampling, generate.generated, source=source))

    def _unknown_prefill(self, generate: Generate) -> TokenOutput | None:
        if generate.prefill is None or generate.prefill.name in (*self.peers, *self.sources):
            return None
        reason = f"`{generate.prefill.name}` has no KV edge to this worker"
        return TokenOutput(generate.request_id, (), "error", error=reason)

    def _is_refusal(self, output: TokenOutput) -> bool:
        """Whether the output answers a prompt for a decode worker; also tells an attempt that it got no blocks."""
        if self._decode is not None and output.error is not None:
            self._decode.refused(output.request_id)
        return self._prefill is not None and self._prefill.refused(output)
