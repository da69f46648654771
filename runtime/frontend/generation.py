"""One choice's tokens, whatever happens to the workers that make them.

A worker that is lost, or fails in a way that another might not, is replaced: the tokens so far go to the next
worker as part of the prompt, and the client sees one continuous answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter

from dynamoc.runtime.frontend.errors import ApiError, internal, overloaded, too_long, unavailable
from dynamoc.runtime.frontend.router_client import RefusedError, RouterClient, RouterLostError
from dynamoc.runtime.frontend.worker_client import Inbox, SlowClientError, WorkerLink, WorkerLostError, WorkerPool
from dynamoc.runtime.kv.hashing import pack_tokens
from dynamoc.runtime.plane.messages import (
    Generate,
    PromptComputed,
    RequestEnded,
    Routed,
    RouteRequest,
    Sampling,
    TokenOutput,
)

MAX_ATTEMPTS = 3
RETRY_PAUSE_S = 0.05

log = logging.getLogger("dynamoc.frontend")


@dataclass(frozen=True, slots=True)
class Backend:
    """What stands behind the frontend, shared by all requests. `unread_tokens` bounds what waits for one client."""

    router: RouterClient
    workers: WorkerPool
    replays: Counter
    unread_tokens: int
    ids: itertools.count[int] = field(default_factory=itertools.count)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One worker's try. The router and the worker know it by the same number."""

    request_id: int
    routed: Routed
    link: WorkerLink
    inbox: Inbox


class Generation:
    """Call `next` until an output has `finish`, then, or to give up earlier, `close`.

    `deadline` is on the monotonic clock.
    """

    def __init__(self, backend: Backend, prompt: Sequence[int], sampling: Sampling, deadline: float) -> None:
        self._backend = backend
        self._prompt = pack_tokens(prompt)
        self._sampling = sampling
        self._deadline = deadline
        self._generated: list[int] = []
        self._avoid: tuple[str, ...] = ()
        self._attempts = 0
        self._attempt: _Attempt | None = None
        self._prompt_computed = False

    async def next(self) -> list[TokenOutput]:
        """What came since the last call, at least one output. ApiError if there will be no more."""
        while True:
            attempt = self._attempt or await self._start()
            if attempt is None:
                continue
            try:
                while not (outputs := attempt.inbox.take()):
                    await attempt.inbox.arrival()
            except WorkerLostError as error:
                self._try_another("connection", str(error), _name(attempt.routed))
                continue
            except SlowClientError as error:
                raise ApiError(408, str(error), type="timeout_error", code="slow_client") from error
            outputs = self._accept(attempt, outputs)
            if outputs:
                return outputs

    def close(self) -> None:
        """Free what the request holds elsewhere. Idempotent."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.link.finish(attempt.request_id, cancel=True)
            self._backend.router.tell(RequestEnded(attempt.request_id))

    async def _start(self) -> _Attempt | None:
        """Place the request on a worker; None if that worker turned out to be gone."""
        self._attempts += 1
        if self._attempts > 1:
            await asyncio.sleep(RETRY_PAUSE_S * (self._attempts - 1))
        request_id = next(self._backend.ids)
        routed = None
        try:
            routed = await self._route(request_id)
            link = await self._backend.workers.open(routed.worker)
            inbox = link.submit(self._generate(request_id, routed), self._backend.unread_tokens)
            self._attempt = _Attempt(request_id, routed, link, inbox)
        except WorkerLostError as error:
            assert routed is not None
            self._try_another("unreachable", str(error), _name(routed))
        finally:
            if self._attempt is None:
                self._backend.router.tell(RequestEnded(request_id))
        self._prompt_computed = False
        return self._attempt

    async def _route(self, request_id: int) -> Routed:
        left = self._sampling.max_tokens - len(self._generated)
        try:
            return await self._backend.router.route(RouteRequest(request_id, self._tokens(), left, self._avoid))
        except RouterLostError as error:
            raise unavailable(str(error), "no_router") from error
        except RefusedError as error:
            raise _refusal(error) from error

    def _generate(self, request_id: int, routed: Routed) -> Generate:
        return Generate(
            request_id,
            self._tokens(),
            self._sampling,
            routed.prefill,
            deadline_s=max(0.0, self._deadline - time.monotonic()),
            generated=len(self._generated),
        )

    def _accept(self, attempt: _Attempt, outputs: list[TokenOutput]) -> list[TokenOutput]:
        """Keep account of what came; the outputs before a failure."""
        for number, output in enumerate(outputs):
            if output.error is not None or output.finish in ("error", "abort"):
                self._fail(attempt, output)
                return outputs[:number]
            self._generated += output.tokens
            if not self._prompt_computed:
                self._prompt_computed = True
                self._backend.router.tell(PromptComputed(attempt.request_id))
            if output.finish is not None:
                attempt.link.finish(attempt.request_id, cancel=False)
                self._backend.router.tell(RequestEnded(attempt.request_id))
                self._attempt = None
        return outputs

    def _fail(self, attempt: _Attempt, output: TokenOutput) -> None:
        reason = output.error or f"the worker ended the request ({output.finish})"
        attempt.link.finish(attempt.request_id, cancel=False)
        if not output.retryable:
            raise internal(reason)
        # Before the first token of a disaggregated request it is the prompt's computation that failed.
        prefill = attempt.routed.prefill if not self._prompt_computed else None
        self._try_another(
            "error", reason, _name(attempt.routed) if prefill is None else f"{prefill.name}@{prefill.incarnation}"
        )

    def _try_another(self, after: str, reason: str, failed: str) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._backend.router.tell(RequestEnded(attempt.request_id))
        self._avoid = (*self._avoid, failed)
        if self._attempts >= MAX_ATTEMPTS:
            raise unavailable(f"{self._attempts} workers failed; the last: {reason}", "workers_failed")
        log.warning("%s failed after %d tokens (%s): %s; trying another", failed, len(self._generated), after, reason)
        self._backend.replays.labels(after).inc()

    def _tokens(self) -> bytes:
        return self._prompt + pack_tokens(self._generated)


def _name(routed: Routed) -> str:
    return f"{routed.worker.name}@{routed.worker.incarnation}"


def _refusal(error: RefusedError) -> ApiError:
    match error.code:
        case "overloaded":
            return overloaded(str(error))
        case "too_long":
            return too_long(str(error), "max_tokens")
        case _:
            return unavailable(str(error), error.code)
