"""One request inside the engine, and one step over many of them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.plane.messages import Sampling, TokenLogprob


@dataclass(slots=True, eq=False)
class Sequence:
    """A request's tokens and the blocks that hold their KV.

    `tokens` grows as tokens are sampled; `computed` counts the leading tokens whose KV is in `blocks`;
    `prompt_tokens` counts what came with the request, of which the last `generated` are replayed output.
    """

    key: int
    tokens: list[int]
    prompt_tokens: int
    sampling: Sampling
    generated: int = 0
    hold_kv: bool = False
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    cached_tokens: int = 0
    admitted: bool = False
    """It had blocks before; what it finds in the cache from now on it may have computed itself."""
    told: int = 0
    """Leading blocks whose content was told to whoever sends it on."""
    arriving: Load | None = None
    """What still fills leading blocks of it, layer by layer."""
    spare: list[int] = field(default_factory=list)
    """Blocks it does not need any more but that may still be read, because they were told."""

    @property
    def output_index(self) -> int:
        """The index of the token to be sampled next, counted from the original prompt's end."""
        return len(self.tokens) - self.prompt_tokens + self.generated


class Chunk(msgspec.Struct, frozen=True):
    """Compute `tokens[start : start + count]` of a sequence; then sample its next token if `sample`.

    Blocks for all of them are allocated. A decode is a chunk of one token.
    """

    sequence: Sequence
    start: int
    count: int
    sample: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What to compute at once: decodes first, then prefill chunks."""

    chunks: tuple[Chunk, ...]


class Sampled(msgspec.Struct, frozen=True):
    """The token drawn for one chunk with `sample`."""

    token: int
    logprob: TokenLogprob | None = None


def sequence_of(request: EngineRequest) -> Sequence:
    """A request before anything of it is computed."""
    return Sequence(
        request.key, list(request.tokens), len(request.tokens), request.sampling, request.generated, request.hold_kv
    )


def chunk_of(sequence: Sequence, budget: int) -> Chunk:
    """As much of the prompt as the budget allows; the last of it is followed by a sample."""
    remaining = len(sequence.tokens) - sequence.computed
    count = min(remaining, budget)
    return Chunk(sequence, sequence.computed, count, count == remaining)
