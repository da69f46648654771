"""The seam between a worker and what computes: requests in, one report per step out.

The worker lives in an asyncio loop, the engine computes in a thread of its own. Every method here may be called
from the loop and returns at once; what comes of it arrives in a `StepReport`. A prefill worker adds requests with
`hold_kv`; a decode worker *reserves* blocks, lets a prefill worker fill them, then *resumes* the request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import Pool
from dynamoc.runtime.kv.tiers.tally import TierReport
from dynamoc.runtime.plane.messages import KvEvent, Sampling, TokenOutput

RequestKey = int
"""A request's name within one engine, given by the worker; never used twice."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as the engine sees it.

    `tokens` are prompt plus `generated` tokens that an earlier worker produced. With `hold_kv` the engine computes
    the prompt, samples one token, reports `Prefilled` and keeps the blocks until `release`.
    """

    key: RequestKey
    tokens: list[int]
    sampling: Sampling
    generated: int = 0
    hold_kv: bool = False
    source: str | None = None
    """The worker whose engine computes the prompt, where engines move KV themselves."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A `hold_kv` request is computed: its first token, and the blocks that hold the prompt's KV, in order."""

    key: RequestKey
    output: TokenOutput
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """`layers` of `blocks` of a `hold_kv` prompt are in the pool and stay as they are; `first` is the number of the
    first of these blocks in the prompt. With an `event` of the pool's GPU: once that has passed.
    """

    key: RequestKey
    first: int
    blocks: tuple[int, ...]
    layers: range
    event: int | None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Blocks for a whole prompt are set aside. The first `resident` of them already hold the right content.

    The next `loading` are being filled by this worker's own KV tiers: `Filled` tells what came of it.
    """

    key: RequestKey
    blocks: tuple[int, ...]
    resident: int
    loading: int = 0


@dataclass(frozen=True, slots=True)
class Filled:
    """The tiers are done with a reserved request: so many leading ones of its `loading` blocks hold the right content.

    They write to none of its blocks any more.
    """

    key: RequestKey
    blocks: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Load at the end of a step. Counters are since start."""

    running: int = 0
    waiting: int = 0
    active_blocks: int = 0
    cached_blocks: int = 0
    total_blocks: int = 0
    quarantined_blocks: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    tier_credits: tuple[float | None, ...] = ()
    """What loading a block from G2, G3, G4 saves, as a share of computing it; None where that was not measured."""


@dataclass(slots=True)
class StepReport:
    """Everything one step brought, in one call. `outputs[].request_id` is the engine's key."""

    outputs: list[TokenOutput] = field(default_factory=list)
    prefilled: list[Prefilled] = field(default_factory=list)
    reserved: list[Reserved] = field(default_factory=list)
    filled: list[Filled] = field(default_factory=list)
    events: list[KvEvent] = field(default_factory=list)
    stats: EngineStats = field(default_factory=EngineStats)
    tiers: TierReport | None = None
    """What the KV tiers did, if there are any."""
    failure: str | None = None
    """The engine cannot go on: the worker must fail its requests and exit."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of the blocks that were recorded in a kept pool. `lost_because`: why there were none, if it is known.

    `wrong` blocks did not hold what was recorded; `orphaned` ones follow a block that is not there; `torn` records were
    half written.
    """

    verified: int = 0
    wrong: int = 0
    orphaned: int = 0
    torn: int = 0
    lost_because: str = ""


class Keeping(Protocol):
    """A pool that outlives this process, as its worker sees it. Writers are processes as transports encode them."""

    recovery: Recovery
    writers: tuple[bytes, ...]
    """Who may still be writing to blocks that an earlier life lent; those blocks wait for `readmit`."""

    def admit(self, writer: bytes) -> None:
        """Call before anything is asked of a process that writes straight into the pool."""
        ...

    def dismiss(self, writer: bytes) -> None:
        """It writes nothing any more, and will be asked for nothing."""
        ...

    def readmit(self) -> None:
        """None of `writers` writes what an earlier life asked for."""
        ...

    def is_kept(self) -> bool:
        """Whether there is still somebody who keeps the pool."""
        ...


class Engine(Protocol):
    """What computes. One instance a worker."""

    name: str

    def load(self, progress: Callable[[float, str], None]) -> None:
        """Blocking: load weights, allocate the pool, warm up. `progress` takes a fraction in 0..1 and a word."""
        ...

    def layout(self) -> KvLayout:
        """Shape of the pool; after `load`."""
        ...

    def pool(self) -> Pool:
        """The pool that peers may write to; after `load`."""
        ...

    def keeping(self) -> Keeping | None:
        """The pool's life beyond this process's, if it has one; after `load`."""
        ...

    def start(self, on_step: Callable[[StepReport], None], on_written: Callable[[Written], None] | None = None) -> None:
        """Begin to compute. Both are called from the engine's thread.

        `on_written` hears of every layer of every block of a `hold_kv` prompt once, before its `Prefilled`.
        """
        ...

    def add(self, request: EngineRequest) -> None:
        """Queue a request. One that can never fit is reported as an output with `error`."""
        ...

    def reserve(self, request: EngineRequest, answer_s: float | None = None) -> None:
        """Set blocks aside for a prompt whose KV a peer will write, in `answer_s` as far as that is foreseen."""
        ...

    def resume(self, key: RequestKey, first: TokenOutput) -> None:
        """The KV of a reserved request arrived and was verified: register its blocks, decode on from `first`.

        Not before `Filled`, if some were loading. `first` itself is not reported again as an output.
        """
        ...

    def compute(self, key: RequestKey) -> None:
        """The KV of a reserved request will not come and no peer writes to it: compute here what is not resident."""
        ...

    def quarantine(self, key: RequestKey) -> None:
        """Drop a reserved request but keep its blocks out of use: a peer may still write to them."""
        ...

    def release(self, key: RequestKey) -> None:
        """Nobody else uses the blocks of a held, reserved or quarantined request any more."""
        ...

    def cancel(self, key: RequestKey) -> None:
        """Drop a request wherever it is; unknown keys are ignored. Nothing is reported for it.

        The blocks of a reserved or held request are free at once: while a peer uses them, `quarantine` it, or `release`
        it later.
        """
        ...

    def resident(self) -> list[KvEvent]:
        """All blocks now in the prefix cache as `stored` events, parents first; for a router that restarted."""
        ...

    def stop(self) -> None:
        """Blocking: end the thread and free what was allocated. Idempotent."""
        ...
