"""The decode side: have a prefill worker fill my blocks, check every byte, go on from its first token.

It is asked at once for what neither the device nor the tiers of this worker hold, while the tiers load. If they do
not bring what they held, it is asked for that too once it has answered: it has just computed the prompt.

Each request is one task from the reservation of its blocks until nobody can write to them any more. After an attempt
that did not end with the prefill worker's word, the blocks go to quarantine, unless the transport can revoke; the
request itself does not wait for that: it is computed here, in other blocks. Blocks leave quarantine when the prefill
worker answers for that generation, when it attaches again in the same life (it ended all earlier writes before it said
so), or when its process is gone. A lost connection, or silence, alone proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time

import msgspec

from dynamoc.runtime.engines.protocol import Engine, EngineRequest, Filled, RequestKey, Reserved
from dynamoc.runtime.kv.hashing import unpack_tokens
from dynamoc.runtime.plane.messages import (
    AbortPrefill,
    Message,
    PrefillAborted,
    PrefillDone,
    PrefillFailed,
    PrefillRequest,
    PrefillWritten,
)
from dynamoc.runtime.transports.protocol import Transport
from dynamoc.runtime.worker.arrivals import Arrivals
from dynamoc.runtime.worker.attempt import Attempt
from dynamoc.runtime.worker.prefill_peer import PrefillPeer
from dynamoc.runtime.worker.requests import Request, Requests
from dynamoc.runtime.worker.telemetry import Telemetry

ATTACH_WAIT_S = 2.0
"""How long a request waits for a prefill worker that is not attached."""
LOOK_S = 0.25
"""How often quarantined blocks are looked after."""

log = logging.getLogger(__name__)


class DecodeService:
    """Requests whose prompt another worker computes."""

    def __init__(self, engine: Engine, transport: Transport, requests: Requests, telemetry: Telemetry) -> None:
        self._engine = engine
        self._transport = transport
        self._requests = requests
        self._telemetry = telemetry
        self._generations = itertools.count(1)
        self._reserving: dict[RequestKey, Attempt] = {}
        self._loading: dict[RequestKey, Attempt] = {}
        self._attempts: dict[int, Attempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, request: Request, peer: PrefillPeer) -> None:
        """Reserve blocks here and have `peer` fill them."""
        attempt = Attempt(request, request.key, next(self._generations), peer)
        request.cancel = attempt.drop
        self._reserving[attempt.key] = attempt
        self._engine.reserve(_engine_request(request), peer.speed.seconds(request.prompt_tokens))
        task = asyncio.get_running_loop().create_task(self._run(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reserved(self, reserved: Reserved) -> None:
        """The engine set blocks aside."""
        attempt = self._reserving.get(reserved.key)
        if attempt is None or attempt.reserved.done():
            return
        attempt.reserved.set_result(reserved)
        if reserved.loading:
            self._loading[attempt.key] = attempt
        else:
            attempt.loaded.set_result(0)

    def filled(self, filled: Filled) -> None:
        """The tiers are done with the blocks of a reservation."""
        attempt = self._loading.pop(filled.key, None)
        if attempt is not None and not attempt.loaded.done():
            attempt.loaded.set_result(filled.blocks)

    def refused(self, key: RequestKey) -> None:
        """The engine will never set blocks aside for this request."""
        attempt = self._reserving.get(key)
        if attempt is not None:
            attempt.drop()

    def answered(self, message: Message) -> bool:
        """A prefill worker's answer; False if the message is none."""
        if not isinstance(message, PrefillWritten | PrefillDone | PrefillFailed | PrefillAborted):
            return False
        attempt = self._attempts.get(message.generation)
        if attempt is None:
            return True
        if isinstance(message, PrefillWritten):
            if attempt.arrivals is not None and not attempt.answer.done():
                attempt.arrivals.add(message.written)
        else:
            attempt.quiet.set()
            if not attempt.answer.done():
                attempt.answered_at = time.monotonic()
                attempt.answer.set_result(message)
        return True

    def attached(self, peer: PrefillPeer) -> None:
        """The same life of a prefill worker that is back has ended what it was writing."""
        for attempt in self._attempts.values():
            if attempt.peer is peer and attempt.answer.done() and attempt.incarnation == peer.incarnation:
                attempt.quiet.set()

    def lost(self, peer: PrefillPeer, reason: str) -> None:
        """A prefill worker is gone: its prompts are computed here."""
        for attempt in self._attempts.values():
            if attempt.peer is peer and attempt.incarnation >= 0:
                attempt.lost(reason)

    async def close(self) -> None:
        """Forget all attempts. The pool is about to go, and with it what a peer might still write to."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- one attempt --------------------------------------------------------------------------------------

    async def _run(self, attempt: Attempt) -> None:
        try:
            reserved = await attempt.reserved
            del self._reserving[attempt.key]
            if reserved is None:
                self._engine.cancel(attempt.key)
            else:
                await self._fill(attempt, reserved)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("the prefill of request %d failed", attempt.key)
            self._engine.quarantine(attempt.key)
            self._requests.fail(attempt.request, "the worker failed", retryable=True)
        finally:
            self._loading.pop(attempt.key, None)

    async def _fill(self, attempt: Attempt, reserved: Reserved) -> None:
        """Have those blocks filled that neither hold their content nor are about to."""
        first = reserved.resident + (attempt.loaded.result() if attempt.loaded.done() else reserved.loading)
        if self._is_nearly_resident(attempt, first):
            first = reserved.resident + await attempt.loaded
        if self._is_nearly_resident(attempt, first):
            self._compute_here(attempt, "resident")
        elif attempt.peer.is_silent:
            self._compute_here(attempt, "silent")
        elif not await attempt.peer.wait_attached(ATTACH_WAIT_S):
            self._not_attached(attempt)
        elif attempt.dropped:
            self._engine.cancel(attempt.key)
        else:
            self._attempts[attempt.generation] = attempt
            try:
                await self._ask(attempt, reserved, first)
            finally:
                del self._attempts[attempt.generation]
                if attempt.arrivals is not None:
                    await attempt.arrivals.close()

    async def _ask(self, attempt: Attempt, reserved: Reserved, first: int) -> None:
        """Have the blocks filled, from number `first` on, and act on the answer."""
        generate, peer = attempt.request.generate, attempt.peer
        blocks = reserved.blocks[first:]
        attempt.incarnation, attempt.writer, attempt.asked_at = peer.incarnation, peer.writer, time.monotonic()
        attempt.arrivals = Arrivals(self._transport, blocks, self._engine.layout().layers)
        self._transport.expect(attempt.generation, blocks)
        ask = PrefillRequest(
            request_id=attempt.key,
            generation=attempt.generation,
            tokens=generate.tokens,
            sampling=generate.sampling,
            first_block=first,
            blocks=blocks,
            deadline_s=attempt.request.remaining_s,
            generated=generate.generated,
        )
        if not peer.send(ask):
            attempt.quiet.set()
            attempt.lost("the connection was gone")
        answer = await attempt.answer
        if isinstance(answer, str) and not attempt.quiet.is_set():
            peer.send(AbortPrefill(attempt.key, attempt.generation))
        is_quiet = await self._transport.revoke(attempt.generation) or attempt.quiet.is_set()
        if attempt.dropped:
            await self._give_back(attempt, is_quiet)
        elif isinstance(answer, PrefillDone):
            await self._take(attempt, reserved, first, answer)
        elif isinstance(answer, PrefillFailed) and not answer.retryable:
            self._requests.fail(attempt.request, answer.reason, retryable=False)
            await self._give_back(attempt, is_quiet)
        else:
            reason = "failed" if not isinstance(answer, str) else "silent" if peer.is_silent else "lost"
            detail = answer if isinstance(answer, str) else getattr(answer, "reason", "aborted")
            log.warning("request %d: no KV from %s (%s): computing it here", attempt.key, peer.name, detail)
            await self._fall_back(attempt, reason, is_quiet)

    async def _take(self, attempt: Attempt, reserved: Reserved, first: int, done: PrefillDone) -> None:
        """Check what arrived, in my own memory; decode on from it only if every block is right."""
        attempt.peer.speed.observe(attempt.request.prompt_tokens, attempt.answered_at - attempt.asked_at)
        wrong = asked = len(reserved.blocks) - first
        if attempt.arrivals is not None and done.checksum == self._transport.checksum:
            wrong = await attempt.arrivals.wrong()
        self._telemetry.received(asked - wrong, wrong)
        if wrong and not attempt.dropped:
            log.error("request %d: %d blocks from %s are not what was sent", attempt.key, wrong, attempt.peer.name)
            self._compute_here(attempt, "checksum")
            return
        verifying_s = time.monotonic() - attempt.answered_at
        here = reserved.resident + await self._loaded(attempt, reserved)
        if attempt.dropped:
            self._engine.release(attempt.key)
        elif here < first:
            await self._ask_again(attempt, reserved, first - here)
        else:
            self._telemetry.verified_after(done.age_s + verifying_s, done.waited_s + verifying_s)
            self._decode_on(attempt, done)

    async def _loaded(self, attempt: Attempt, reserved: Reserved) -> int:
        """How many blocks the tiers brought; a load has a deadline of its own."""
        began = time.monotonic()
        loaded = await attempt.loaded
        if reserved.loading and not attempt.dropped:
            self._telemetry.waited_for_tiers(time.monotonic() - began)
        return loaded

    async def _ask_again(self, attempt: Attempt, reserved: Reserved, missing: int) -> None:
        """The tiers did not bring what they held: the prefill worker, which has the prompt, writes it too."""
        log.warning("request %d: the tiers did not bring %d blocks: asking for them", attempt.key, missing)
        self._telemetry.asked_again()
        again = attempt.again(next(self._generations))
        attempt.request.cancel = again.drop
        await self._fill(again, reserved)

    def _decode_on(self, attempt: Attempt, done: PrefillDone) -> None:
        """Every block holds its content."""
        first = msgspec.structs.replace(done.output, request_id=attempt.key)
        self._requests.hand_to_engine(attempt.request)
        self._engine.resume(attempt.key, first)
        self._requests.deliver([first])

    def _is_nearly_resident(self, attempt: Attempt, blocks: int) -> bool:
        """Whether so little is missing beside these that computing it is quicker than asking for it."""
        return attempt.request.prompt_tokens <= (blocks + 1) * self._engine.layout().block_size

    def _not_attached(self, attempt: Attempt) -> None:
        if not attempt.peer.refusal:
            self._compute_here(attempt, "not_attached")
            return
        # What the plan declared does not work: that must be seen, not covered up by computing here.
        reason = f"{attempt.peer.name} refused this worker's KV pool: {attempt.peer.refusal}"
        self._requests.fail(attempt.request, reason, retryable=True)
        self._engine.cancel(attempt.key)

    def _compute_here(self, attempt: Attempt, reason: str) -> None:
        """Compute the prompt in the reserved blocks: nothing writes to them."""
        if attempt.dropped:
            self._engine.cancel(attempt.key)
            return
        self._telemetry.local_prefill(reason)
        self._requests.hand_to_engine(attempt.request)
        self._engine.compute(attempt.key)

    async def _fall_back(self, attempt: Attempt, reason: str, is_quiet: bool) -> None:
        """Compute the prompt here; in other blocks, if a peer may still write to the reserved ones."""
        if is_quiet:
            self._compute_here(attempt, reason)
            return
        self._telemetry.local_prefill(reason)
        self._engine.quarantine(attempt.key)
        self._requests.rekey(attempt.request)
        self._requests.hand_to_engine(attempt.request)
        self._engine.add(_engine_request(attempt.request))
        await self._sit_out(attempt)

    async def _give_back(self, attempt: Attempt, is_quiet: bool) -> None:
        if is_quiet:
            self._engine.release(attempt.key)
        else:
            self._engine.quarantine(attempt.key)
            await self._sit_out(attempt)

    async def _sit_out(self, attempt: Attempt) -> None:
        """Keep the blocks in quarantine until nobody can write to them."""
        while not attempt.quiet.is_set() and not self._transport.writer_gone(attempt.writer):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(attempt.quiet.wait(), LOOK_S)
        log.info("the blocks of request %d left quarantine", attempt.key)
        self._engine.release(attempt.key)


def _engine_request(request: Request) -> EngineRequest:
    generate = request.generate
    return EngineRequest(request.key, unpack_tokens(generate.tokens), generate.sampling, generate.generated)
