"""Every message that crosses a plane: one struct each, encoded as a tagged msgpack array.

Token ids travel as `bytes` (u32 little-endian, one per token): compact, and what block hashing consumes.
A request id is chosen by the frontend and unique within one connection of it; `generation` tells two attempts
at the same KV transfer apart, so that a late answer to a cancelled attempt is never taken for the new one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages. Fields may only be added at the end, with a default."""


# ---- what requests are made of ---------------------------------------------------------------------------


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How tokens are chosen. Temperature 0 is greedy.

    Token `i` of a request is drawn from a generator keyed by (`seed`, `i`) alone, so a replay on another worker
    draws the same numbers. `logprobs` is the number of alternatives wanted per token; -1 means none at all.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int = -1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class WorkerAddress(msgspec.Struct, frozen=True, array_like=True):
    """Where a worker's plane listens, and which life of the worker is meant."""

    name: str
    incarnation: int
    host: str
    port: int


class WorkerInfo(msgspec.Struct, frozen=True, array_like=True):
    """What a worker tells the router when it registers."""

    address: WorkerAddress
    component: str
    role: str
    model: str
    engine: str
    block_size: int
    blocks: int
    context_length: int
    max_batched_tokens: int
    max_sequences: int
    layout_digest: str
    transport: str | None = None


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of the chosen token and of the best alternatives, natural logarithm."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenOutput(msgspec.Struct, frozen=True, array_like=True):
    """What one step produced for one request. `cached_tokens` (prompt tokens not computed) comes with the first
    or the last."""

    request_id: int
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    error: str | None = None
    retryable: bool = False


# ---- KV events: worker -> router -------------------------------------------------------------------------


class StoredBlock(msgspec.Struct, frozen=True, array_like=True):
    """One resident block: `sequence_hash` names it with all its predecessors, `local_hash` its tokens alone."""

    sequence_hash: int
    local_hash: int


class BlocksStored(Message, frozen=True):
    """Blocks became resident in a tier (`G1`…`G4`), each the child of the one before; the first of `parent`."""

    blocks: tuple[StoredBlock, ...]
    parent: int | None = None
    tier: str = "G1"


class BlocksRemoved(Message, frozen=True):
    """Blocks left a tier."""

    sequence_hashes: tuple[int, ...]
    tier: str = "G1"


class BlocksCleared(Message, frozen=True):
    """Nothing of this worker is resident any more."""


KvEvent = BlocksStored | BlocksRemoved | BlocksCleared


class KvEvents(Message, frozen=True):
    """Events of one worker in order; `first_id` counts up by one per event, so the router sees a gap."""

    first_id: int
    events: tuple[KvEvent, ...]


# ---- worker <-> router -----------------------------------------------------------------------------------


class RegisterWorker(Message, frozen=True):
    """First message of a worker to the router; followed by all resident blocks as KvEvents."""

    worker: WorkerInfo


class Registered(Message, frozen=True):
    """The router's answer. Not accepted means the reason is final (a stale incarnation, another layout)."""

    accepted: bool
    reason: str = ""


class LoadReport(Message, frozen=True):
    """The worker's own view of its load, sent when it changed, at most ten times a second.

    `tier_credits`: what a block in G2, G3, G4 saves, as a share of computing it; None where that was not measured.
    """

    running: int
    waiting: int
    active_blocks: int
    cached_blocks: int
    tier_credits: tuple[float | None, ...] = ()


class Draining(Message, frozen=True):
    """The worker finishes what it has and wants nothing new."""


# ---- frontend <-> router ---------------------------------------------------------------------------------


class RouteRequest(Message, frozen=True):
    """Where should this go? `avoid` names `worker@incarnation`s that already failed this request."""

    request_id: int
    tokens: bytes
    max_tokens: int
    avoid: tuple[str, ...] = ()


class Routed(Message, frozen=True):
    """The router's choice. `prefill` is None when the worker computes the prompt itself.

    `overlap_blocks` are the leading prompt blocks the router believes the computing worker holds.
    """

    request_id: int
    worker: WorkerAddress
    prefill: WorkerAddress | None = None
    overlap_blocks: int = 0


class RouteRefused(Message, frozen=True):
    """No worker can take the request. `code` is `overloaded`, `no_worker`, `too_long` or `timeout`."""

    request_id: int
    code: str
    reason: str


class PromptComputed(Message, frozen=True):
    """The first token arrived: the prompt is no longer load on the worker that computed it."""

    request_id: int


class RequestEnded(Message, frozen=True):
    """The request is over, however it ended. Also cancels one that is still queued in the router."""

    request_id: int


class WorkersWanted(Message, frozen=True):
    """Ask the router who is registered."""


class Workers(Message, frozen=True):
    """Who is registered and not draining."""

    workers: tuple[WorkerInfo, ...]


# ---- frontend <-> worker ---------------------------------------------------------------------------------


class Generate(Message, frozen=True):
    """Produce tokens. With `prefill` set, the worker asks that one for the prompt's KV.

    `generated` counts the last tokens of `tokens` that earlier workers produced (a replay after a failure):
    sampling goes on at that index, and `sampling.max_tokens` still counts from the original prompt.
    """

    request_id: int
    tokens: bytes
    sampling: Sampling
    prefill: WorkerAddress | None = None
    deadline_s: float = 600.0
    generated: int = 0


class Cancel(Message, frozen=True):
    """Stop working on a request; unknown ids are ignored."""

    request_id: int


class StepOutputs(Message, frozen=True):
    """All outputs of one engine step for one peer: one frame a step."""

    outputs: tuple[TokenOutput, ...]


# ---- decode worker <-> prefill worker --------------------------------------------------------------------


class AttachPool(Message, frozen=True):
    """A decode worker offers its KV pool: `transport` and what it needs to reach the pool."""

    transport: str
    metadata: bytes
    layout_digest: str


class PoolAttached(Message, frozen=True):
    """The prefill worker can (or cannot) write to the offered pool. A refusal is an error, never a fallback.

    It is sent once nothing that was asked for on an earlier connection is being written any more. `writer` tells
    the transport of the decode worker how to see that the prefill worker's process has ended.
    """

    transport: str
    accepted: bool
    reason: str = ""
    writer: bytes = b""


class PrefillRequest(Message, frozen=True):
    """Compute the prompt, push its KV into my blocks, answer with the first token.

    `blocks` are destination block indices in the attached pool for the prompt's blocks from `first_block` on
    (those before are resident at the destination). `deadline_s` is the time left when the message was sent.
    """

    request_id: int
    generation: int
    tokens: bytes
    sampling: Sampling
    first_block: int
    blocks: tuple[int, ...]
    deadline_s: float
    generated: int = 0


class WrittenLayers(msgspec.Struct, frozen=True, array_like=True):
    """Layers `first` to `end` of `blocks` destinations of a request, from number `first_block` on, as one write.

    `checksums` are words, little-endian.
    """

    first: int
    end: int
    first_block: int
    blocks: int
    checksums: bytes


class PrefillWritten(Message, frozen=True):
    """These are written: they can be verified, but are worth nothing before PrefillDone."""

    request_id: int
    generation: int
    written: tuple[WrittenLayers, ...]


class PrefillDone(Message, frozen=True):
    """All blocks are written, every layer once, as PrefillWritten said before.

    `checksum` names the definition. When this was sent, the last of what was pushed had been computed for `age_s`, and
    the first token been known for `waited_s`.
    """

    request_id: int
    generation: int
    output: TokenOutput
    checksum: str
    transport: str
    moved_bytes: int
    seconds: float
    age_s: float
    waited_s: float


class PrefillFailed(Message, frozen=True):
    """The prompt's KV will not come, and nothing will be written to the blocks any more."""

    request_id: int
    generation: int
    reason: str
    retryable: bool = True


class AbortPrefill(Message, frozen=True):
    """Stop a prefill. The blocks stay quarantined until PrefillAborted, PrefillDone or PrefillFailed comes back."""

    request_id: int
    generation: int


class PrefillAborted(Message, frozen=True):
    """Nothing will be written to the blocks of this attempt any more."""

    request_id: int
    generation: int


AnyMessage = (
    BlocksStored | BlocksRemoved | BlocksCleared | KvEvents
    | RegisterWorker | Registered | LoadReport | Draining
    | RouteRequest | Routed | RouteRefused | PromptComputed | RequestEnded | WorkersWanted | Workers
    | Generate | Cancel | StepOutputs
    | AttachPool | PoolAttached
    | PrefillRequest | PrefillWritten | PrefillDone | PrefillFailed | AbortPrefill | PrefillAborted
)  # fmt: skip
