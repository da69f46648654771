"""The requests of this worker: who asked, under which key the engine knows them, and how each ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from dynamoc.runtime.engines.protocol import RequestKey
from dynamoc.runtime.kv.hashing import TOKEN_BYTES
from dynamoc.runtime.plane.connection import Connection, PlaneError
from dynamoc.runtime.plane.messages import Generate, StepOutputs, TokenOutput


@dataclass(slots=True, eq=False)
class Request:
    """One `Generate` until its last output. `cancel` takes it out of whatever works on it."""

    key: RequestKey
    connection: Connection
    generate: Generate
    expires_at: float
    timer: asyncio.TimerHandle
    cancel: Callable[[], None]

    @property
    def name(self) -> tuple[Connection, int]:
        """What the frontend calls it."""
        return self.connection, self.generate.request_id

    @property
    def prompt_tokens(self) -> int:
        """How many tokens it begins with."""
        return len(self.generate.tokens) // TOKEN_BYTES

    @property
    def remaining_s(self) -> float:
        """Time left, at least zero."""
        return max(0.0, self.expires_at - asyncio.get_running_loop().time())


class Requests:
    """All requests, by engine key and by the name their frontend gave them. At most `capacity`."""

    def __init__(self, capacity: int, cancel: Callable[[RequestKey], None]) -> None:
        self._capacity = capacity
        self._cancel = cancel
        self._keys = itertools.count(1)
        self._by_key: dict[RequestKey, Request] = {}
        self._by_name: dict[tuple[Connection, int], Request] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def new_key(self) -> RequestKey:
        """A key the engine has never seen."""
        return next(self._keys)

    def refusal(self, connection: Connection, generate: Generate) -> TokenOutput | None:
        """Why a request cannot be taken, if it cannot."""
        request_id = generate.request_id
        if (connection, request_id) in self._by_name:
            return _error(request_id, f"request id {request_id} is in use on this connection")
        if len(self._by_key) >= self._capacity:
            return _error(request_id, f"the worker has {self._capacity} requests", retryable=True)
        if not generate.tokens or len(generate.tokens) % TOKEN_BYTES:
            return _error(request_id, f"{len(generate.tokens)} bytes are not a prompt of u32 tokens")
        return None

    def add(self, connection: Connection, generate: Generate) -> Request:
        """Take a request that `refusal` has nothing against."""
        loop = asyncio.get_running_loop()
        key, expires_at = self.new_key(), loop.time() + generate.deadline_s
        timer = loop.call_at(expires_at, self._expire, connection, generate)
        request = Request(key, connection, generate, expires_at, timer, lambda: None)
        self.hand_to_engine(request)
        self._by_key[key] = self._by_name[request.name] = request
        return request

    def hand_to_engine(self, request: Request) -> None:
        """From now on the engine alone works on it."""
        request.cancel = lambda: self._cancel(request.key)

    def rekey(self, request: Request) -> None:
        """Give a request a new key, because its old one stays with its old blocks."""
        del self._by_key[request.key]
        request.key = self.new_key()
        self._by_key[request.key] = request

    def deliver(self, outputs: Iterable[TokenOutput]) -> None:
        """Send each connection its outputs in one frame; requests that finished are over."""
        frames: defaultdict[Connection, list[TokenOutput]] = defaultdict(list)
        for output in outputs:
            request = self._by_key.get(output.request_id)
            if request is None:
                continue  # cancelled while the step ran
            named = msgspec.structs.replace(output, request_id=request.generate.request_id)
            frames[request.connection].append(named)
            if output.finish is not None:
                self._remove(request)
        for connection, named_outputs in frames.items():
            send_outputs(connection, named_outputs)

    def cancel(self, connection: Connection, request_id: int) -> None:
        """The frontend lost interest; unknown ids are ignored."""
        request = self._by_name.get((connection, request_id))
        if request is not None:
            self._remove(request)
            request.cancel()

    def drop_connection(self, connection: Connection) -> None:
        """The frontend is gone, and its requests with it."""
        for name in [name for name in self._by_name if name[0] is connection]:
            self.cancel(*name)

    def fail_all(self, reason: str) -> None:
        """End every request with an error that another worker may cure."""
        for request in list(self._by_key.values()):
            self.fail(request, reason, retryable=True)

    def fail(self, request: Request, reason: str, *, retryable: bool) -> None:
        """End one request with an error."""
        if self._by_key.get(request.key) is request:
            self._remove(request)
            request.cancel()
            send_outputs(request.connection, [_error(request.generate.request_id, reason, retryable=retryable)])

    def _expire(self, connection: Connection, generate: Generate) -> None:
        reason = f"not finished within {generate.deadline_s:g} s"
        self.fail(self._by_name[connection, generate.request_id], reason, retryable=False)

    def _remove(self, request: Request) -> None:
        request.timer.cancel()
        del self._by_key[request.key]
        del self._by_name[request.name]


def send_outputs(connection: Connection, outputs: list[TokenOutput]) -> None:
    """One frame; a frontend that is gone, or does not read, loses its connection and with it the requests."""
    with contextlib.suppress(PlaneError):
        connection.send(StepOutputs(tuple(outputs)))


def _error(request_id: int, reason: str, *, retryable: bool = False) -> TokenOutput:
    return TokenOutput(request_id, (), "error", error=reason, retryable=retryable)
