"""The seam between our plane and an engine's own server: how it is asked, and how its answers read.

One module an engine holds what differs; what they share is here and in `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.plane.messages import FinishReason, TokenLogprob
from dynamoc.runtime.process import Endpoint
from dynamoc.runtime.served.http import Server, ServerError

FACTS_LIMIT_S = 30.0
"""A server that is healthy says what it is within this time."""

Body = dict[str, object]
"""A request in the engine's words, to be JSON."""


class Answer(msgspec.Struct, frozen=True):
    """What one event of a streamed answer says. `cached_tokens` come with the last, as servers count them then."""

    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    error: str | None = None


class Reader(Protocol):
    """Reads the events of one answer."""

    def read(self, event: bytes) -> Answer | None:
        """What an event says, None if it brings nothing; msgspec.MsgspecError if it is not of this API."""
        ...

    def end(self) -> Answer | None:
        """What was held back until the stream ended well."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine says of itself once it serves; 0 where it does not."""

    block_size: int = 0
    blocks: int = 0
    context_length: int = 0
    max_batched_tokens: int = 0
    max_sequences: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """Names of an engine's metrics, by field of `EngineStats`; `usage` is the share of its blocks that are in use."""

    fields: Mapping[str, str]
    usage: str


class Handoff(Protocol):
    """How an engine's own connector moves a prompt's KV: what the server of the prefill worker is told, and ours."""

    at_once: bool
    """Both servers are asked at the same time, and find each other."""
    alone: bool
    """A decode worker computes a prompt itself where none is handed over."""

    def prefill(self, body: Body, peer: Endpoint, room: int) -> Body:
        """Asks for the prompt alone, as one JSON answer; `room` is a number of this hand-over."""
        ...

    def decode(self, body: Body, peer: Endpoint, room: int, answer: Mapping[str, object]) -> Body:
        """Asks to go on; `answer` is that of the prefill worker, empty if both are asked at once."""
        ...


class Api(Protocol):
    """One an engine."""

    path: str
    """Where requests go."""
    handoff: Handoff
    counted: Counted | None
    """None: the engine has no counters by default, so ours are all there is."""

    def refusal(self, request: EngineRequest) -> str | None:
        """Why the engine cannot do exactly what is asked."""
        ...

    def body(self, request: EngineRequest, model: str) -> Body:
        """A request for streamed tokens."""
        ...

    def reader(self, request: EngineRequest) -> Reader:
        """For the answer to it."""
        ...

    async def facts(self, server: Server) -> Facts:
        """Ask a server that is healthy; ServerError."""
        ...


class ServedModel(msgspec.Struct, frozen=True):
    """What a server calls its model, and how long a context may be where it says so."""

    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: tuple[ServedModel, ...]


async def model_of(server: Server) -> ServedModel:
    """The first of the models at `/v1/models`, which all engines list; ServerError."""
    models = msgspec.json.decode(await server.get("/v1/models", FACTS_LIMIT_S), type=_Models)
    if not models.data:
        raise ServerError("the engine lists no model")
    return models.data[0]


def seed_of(request: EngineRequest) -> int:
    """A replay must not draw again what was drawn for the tokens before it."""
    return (request.sampling.seed + request.generated) % 2**63


def forgets_penalties(request: EngineRequest) -> str | None:
    """Engines count only tokens that they generated themselves."""
    sampling = request.sampling
    if request.generated and (sampling.presence_penalty or sampling.frequency_penalty):
        return "the engine cannot go on with another worker's tokens under penalties: it would count only its own"
    return None
