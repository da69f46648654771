"""Who computes next: continuous batching, chunked prefill, preemption by recompute, blocks set aside for peers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

from dynamoc.runtime.engines.native.blocks import BlockManager
from dynamoc.runtime.engines.native.limits import Limits
from dynamoc.runtime.engines.native.reservations import Reservations
from dynamoc.runtime.engines.native.sequence import Chunk, Sampled, Sequence, Step, chunk_of, sequence_of
from dynamoc.runtime.engines.native.tiering import Tiering
from dynamoc.runtime.engines.protocol import (
    EngineRequest,
    EngineStats,
    Filled,
    Prefilled,
    RequestKey,
    StepReport,
)
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.onboard import Found
from dynamoc.runtime.manifest import WorkerSettings
from dynamoc.runtime.plane.messages import TokenOutput


@dataclass(slots=True)
class _Counters:
    """What only grows."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0


class Scheduler:
    """Every request of one engine and where it is in its life. Not thread-safe.

    A request is in one place: `waiting` for blocks, in line; `loading`, while the KV tiers fill its blocks, or
    `reserved`, while a peer does and perhaps the tiers too; `ready` for a place among `running`; `held` after its
    prefill, until its blocks were sent. One that is `arriving` is computed while later layers of its blocks are being
    loaded: its `computed` counts them already, but nobody else may have them yet.
    """

    def __init__(self, settings: WorkerSettings, blocks: int, eos_token_ids: frozenset[int]) -> None:
        if settings.max_sequences < 1 or settings.max_batched_tokens < 1:
            raise ValueError("max_sequences and max_batched_tokens must be at least 1")
        self.blocks = BlockManager(blocks, settings.kv.block_size, settings.kv.prefix_caching)
        # Decodes are never left out of a step, and one token of every step is left for a prefill under way.
        self._max_sequences = min(settings.max_sequences, settings.max_batched_tokens)
        self._max_batched_tokens = settings.max_batched_tokens
        longest = min(settings.context_length, blocks * settings.kv.block_size)
        self._limits = Limits(longest, f"{blocks} blocks of {settings.kv.block_size} tokens", eos_token_ids)
        self._waiting: OrderedDict[RequestKey, Sequence] = OrderedDict()
        self.tiering: Tiering | None = None
        self._reservations = Reservations(self.blocks)
        self._reserved = self._reservations.having
        self._loading: dict[RequestKey, Sequence] = {}
        self._ready: dict[RequestKey, Sequence] = {}
        self._running: dict[RequestKey, Sequence] = {}
        self._held: dict[RequestKey, Sequence] = {}
        self._report = StepReport()
        self._counters = _Counters()

    # ---- commands: see `Engine` ---------------------------------------------------------------------------

    def add(self, request: EngineRequest) -> None:
        """Queue a request, or report at once why it will never run."""
        if not self._refuse(request):
            self._waiting[request.key] = sequence_of(request)

    def reserve(self, request: EngineRequest, answer_s: float | None = None) -> None:
        """Queue a request for blocks only."""
        if not self._refuse(request):
            self._waiting[request.key] = sequence_of(request)
            self._reservations.wanted[request.key] = answer_s

    def resume(self, key: RequestKey, first: TokenOutput) -> None:
        """The reserved blocks hold the prompt's KV: share them, and decode on from `first`."""
        sequence = self._reserved.pop(key, None)
        if sequence is None:
            return
        assert first.tokens or first.finish
        assert self.tiering is None or not self.tiering.is_loading(key)
        sequence.computed = len(sequence.tokens)
        self.blocks.register(sequence.tokens, sequence.blocks, sequence.computed)
        self._touch(sequence)
        sequence.tokens.extend(first.tokens)
        reason = self._limits.finish_reason(sequence)
        if reason is None and first.finish is None:
            self._ready[key] = sequence
            return
        self.blocks.release(sequence.blocks)
        if first.finish is None:
            self._report.outputs.append(TokenOutput(key, (), reason))

    def compute(self, key: RequestKey) -> None:
        """Nobody fills the reserved blocks: compute the prompt from where the cache ends."""
        self._reservations.wanted.pop(key, None)
        sequence = self._reserved.pop(key, None)
        if sequence is not None:
            is_loading = self.tiering is not None and self.tiering.is_loading(key)
            (self._loading if is_loading else self._ready)[key] = sequence

    def arrived(self, key: RequestKey) -> None:
        """Some layers of all blocks that are loaded are there: compute on them, if the others will come in time."""
        sequence = self._loading.get(key)
        if sequence is None or self.tiering is None:
            return
        load = self.tiering.load_of(key)
        tokens = len(sequence.tokens) - sequence.computed - len(load.blocks) * self.blocks.block_size
        if self.tiering.comes_in_time(load, min(tokens, self._max_batched_tokens)):
            self._ready[key] = self._loading.pop(key)
            sequence.arriving = load
            sequence.computed += len(load.blocks) * self.blocks.block_size

    def loaded(self, key: RequestKey, load: Load) -> None:
        """The tiers are done: what they filled is shared, the rest is computed, or for a peer to write."""
        filled = None if self.tiering is None else self.tiering.loaded(key, load)
        if filled is None:
            return
        early = self._ready.get(key) or self._running.get(key)
        if early is not None and early.arriving is not None:
            early.computed -= len(early.arriving.blocks) * self.blocks.block_size
            self._take_in(early, filled)
        if key in self._reserved:
            self._take_in(self._reserved[key], filled)
            self._report.filled.append(Filled(key, filled))
        elif key in self._loading:
            self._ready[key] = self._loading.pop(key)
            self._take_in(self._ready[key], filled)

    def undo(self, step: Step) -> None:
        """The step was given up: prompts whose layers did not come wait for all of them; nothing else has changed."""
        for sequence in (chunk.sequence for chunk in step.chunks):
            load = sequence.arriving
            if load is not None and self.tiering is not None and load.groups_there < load.groups:
                self.tiering.was_late(load)
                sequence.computed -= len(load.blocks) * self.blocks.block_size
                sequence.arriving = None
                self._loading[sequence.key] = self._running.pop(sequence.key)

    def read(self, blocks: list[int]) -> None:
        """Copies to the tiers no longer read these blocks."""
        if self.tiering is not None:
            self.tiering.read(blocks)

    def quarantine(self, key: RequestKey) -> None:
        """Drop a reserved request; the blocks that a peer was to write stay out of use."""
        if key in self._waiting or key in self._loading:
            self.cancel(key)
        self._end_load(key)
        self._reservations.quarantine(key)

    def release(self, key: RequestKey) -> None:
        """Give back the blocks of a held, reserved or quarantined request."""
        self._end_load(key)
        sequence = self._held.pop(key, None) or self._reserved.pop(key, None)
        if sequence is not None:
            self._let_go(sequence)
        self._reservations.readmit(key)

    def cancel(self, key: RequestKey) -> None:
        """Drop a request wherever it is; only quarantined blocks stay where they are."""
        self._reservations.wanted.pop(key, None)
        if self.tiering is not None:
            self.tiering.forget(key)
        for place in (self._waiting, self._loading, self._ready, self._running, self._reserved, self._held):
            sequence = place.pop(key, None)
            if sequence is not None:
                self._let_go(sequence)

    # ---- a step -------------------------------------------------------------------------------------------

    def schedule(self) -> Step:
        """Choose what to compute now: every decode, then the prefills under way, then whoever waits longest."""
        self._promote()
        chunks = self._decodes()
        budget = self._max_batched_tokens - len(chunks)
        for sequence in self._running.values():
            if budget and len(sequence.tokens) - sequence.computed > 1 and self._may_compute(sequence, budget):
                chunks.append(chunk_of(sequence, budget))
                budget -= chunks[-1].count
        while self._waiting:
            key, sequence = next(iter(self._waiting.items()))
            if not self._admit(sequence, budget):
                break
            del self._waiting[key]
            if key in self._running:
                chunks.append(chunk_of(sequence, budget))
                budget -= chunks[-1].count
        return Step(tuple(chunks))

    def finish(self, step: Step, sampled: Items[Sampled]) -> None:
        """Take in what the step computed: share full blocks, append tokens, let go of what is complete."""
        draws = iter(sampled)
        block_size = self.blocks.block_size
        for chunk in step.chunks:
            sequence = chunk.sequence
            if sequence.arriving is not None:
                # The step waited for every layer of these blocks.
                sequence.computed -= len(sequence.arriving.blocks) * block_size
                self._take_in(sequence, len(sequence.arriving.blocks))
            before, sequence.computed = sequence.computed, chunk.start + chunk.count
            if before // block_size != sequence.computed // block_size:
                spare = sequence.spare if sequence.hold_kv else None
                self.blocks.register(sequence.tokens, sequence.blocks, sequence.computed, spare)
            if chunk.sample:
                self._append(sequence, next(draws))

    def take_report(self, steps: int = 0, step_seconds: float = 0.0) -> StepReport:
        """Everything that happened since the last call."""
        report, self._report = self._report, StepReport()
        report.events = self.blocks.take_events()
        counters, blocks = self._counters, self.blocks
        report.stats = EngineStats(
            running=len(self._running),
            waiting=len(self._waiting) + len(self._loading) + len(self._reserved) + len(self._ready),
            active_blocks=blocks.active,
            cached_blocks=blocks.cached,
            total_blocks=blocks.total,
            quarantined_blocks=blocks.quarantined,
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=counters.cached_tokens,
            generated_tokens=counters.generated_tokens,
            preemptions=counters.preemptions,
            steps=steps,
            step_seconds=step_seconds,
            tier_credits=() if self.tiering is None else self.tiering.credits(),
        )
        return report

    def check_integrity(self) -> None:
        """Raise IntegrityError if blocks leaked, or are used by someone nobody knows of."""
        self.blocks.check_integrity(self._owners())

    # ---- inside -------------------------------------------------------------------------------------------

    def _owners(self) -> Iterator[list[int]]:
        for place in (self._running, self._ready, self._loading, self._reserved, self._held, self._waiting):
            for sequence in place.values():
                yield sequence.blocks
                yield sequence.spare
        if self.tiering is not None:
            yield from self.tiering.held

    def _refuse(self, request: EngineRequest) -> bool:
        """Whether the request ends here; then its output says why."""
        refusal = self._limits.refusal(request)
        if refusal is not None:
            self._report.outputs.append(refusal)
        return refusal is not None

    def _promote(self) -> None:
        while self._ready and len(self._running) < self._max_sequences:
            key = next(iter(self._ready))
            self._running[key] = self._ready.pop(key)

    def _decodes(self) -> list[Chunk]:
        chunks = []
        running, block_size = self._running, self.blocks.block_size
        for sequence in tuple(running.values()):
            length = len(sequence.tokens)
            if length - sequence.computed != 1 or sequence.key not in running or not self._may_compute(sequence, 1):
                continue
            if length <= len(sequence.blocks) * block_size or self._grow(sequence):
                chunks.append(Chunk(sequence, length - 1, 1, True))
        return chunks

    def _grow(self, sequence: Sequence) -> bool:
        """Find a block for the next token, if need be from the youngest; False if that is the sequence itself."""
        while not self.blocks.extend(sequence.blocks):
            # Prompts for peers are never preempted: their blocks may be on their way.
            youngest = next(victim for victim in reversed(self._running.values()) if not victim.hold_kv)
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _may_compute(self, sequence: Sequence, budget: int) -> bool:
        """Whether all its blocks are there, or the layers that are not will be when they are needed."""
        if sequence.arriving is None or self.tiering is None:
            return True
        tokens = min(len(sequence.tokens) - sequence.computed, budget)
        return self.tiering.comes_in_time(sequence.arriving, tokens)

    def _take_in(self, sequence: Sequence, blocks: int) -> None:
        """So many blocks were loaded: share them."""
        sequence.arriving = None
        tokens = blocks * self.blocks.block_size
        sequence.computed += tokens
        sequence.cached_tokens += tokens
        self._counters.cached_tokens += tokens
        spare = sequence.spare if sequence.hold_kv else None
        self.blocks.register(sequence.tokens, sequence.blocks, sequence.computed, spare)

    def _end_load(self, key: RequestKey) -> None:
        """Have nothing written to the blocks of a reserved request but by its peer."""
        if self.tiering is not None and key in self._reserved:
            self.tiering.forget(key)

    def _let_go(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.blocks)
        self.blocks.release(sequence.spare)

    def _preempt(self, sequence: Sequence) -> None:
        del self._running[sequence.key]
        if sequence.arriving is not None and self.tiering is not None:
            self.tiering.forget(sequence.key)
            sequence.arriving = None
        self.blocks.release(sequence.blocks)
        sequence.blocks, sequence.computed = [], 0
        self._waiting[sequence.key] = sequence
        self._waiting.move_to_end(sequence.key, last=False)
        self._counters.preemptions += 1

    def _admit(self, sequence: Sequence, budget: int) -> bool:
        """Give the head of the line its blocks, all or none, and put it among `reserved` or `running`."""
        reserving = sequence.key in self._reservations.wanted
        if reserving and len(self._reserved) + len(self._ready) >= self._max_sequences:
            return False
        if not reserving and (not budget or len(self._running) >= self._max_sequences):
            return False
        found = self._look_up(sequence)
        if found is not None and self._must_wait(found, asks=reserving and found.useful < len(found.keys)):
            return False
        if not self._allocate(sequence):
            return False
        loading = 0
        if found is not None and self.tiering is not None:
            loading = self.tiering.load(sequence, found, overlap=not reserving)
        if reserving:
            self._report.reserved.append(self._reservations.set_aside(sequence, loading))
        else:
            (self._loading if loading else self._running)[sequence.key] = sequence
        return True

    def _look_up(self, sequence: Sequence) -> Found | None:
        if self.tiering is None:
            return None
        if sequence.key in self._reservations.wanted:
            return self.tiering.look_up_beside(sequence.tokens, self._reservations.wanted[sequence.key])
        return self.tiering.look_up(sequence.tokens)

    def _must_wait(self, found: Found, *, asks: bool) -> bool:
        """Whether the prefix is on its way already, or as much as may be is.

        Who `asks` a peer for the rest does not put that off so as to load a common beginning only once.
        """
        if self.tiering is None or not found.useful:
            return False
        is_coming = not asks and self.tiering.is_under_way(found)
        return is_coming or len(self._loading) + len(self._ready) >= self._max_sequences

    def _touch(self, sequence: Sequence) -> None:
        if self.tiering is not None:
            self.tiering.touch(sequence)

    def _allocate(self, sequence: Sequence) -> bool:
        # Running sequences grow: leave each a block, or the newcomer would soon be preempted again.
        allocation = self.blocks.allocate(sequence.tokens, spare=len(self._running))
        if allocation is None:
            return False
        sequence.blocks, resident = allocation
        sequence.computed = resident * self.blocks.block_size
        if not sequence.admitted:
            sequence.admitted = True
            sequence.cached_tokens = sequence.computed
            self._counters.prompt_tokens += sequence.prompt_tokens
            self._counters.cached_tokens += sequence.computed
        return True

    def _append(self, sequence: Sequence, sampled: Sampled) -> None:
        first = len(sequence.tokens) == sequence.prompt_tokens
        sequence.tokens.append(sampled.token)
        self._counters.generated_tokens += 1
        reason = self._limits.finish_reason(sequence)
        if first or reason is not None:
            self._touch(sequence)
        output = TokenOutput(
            sequence.key,
            (sampled.token,),
            reason,
            () if sampled.logprob is None else (sampled.logprob,),
            sequence.cached_tokens if first else 0,
        )
        if sequence.hold_kv:
            del self._running[sequence.key]
            self._held[sequence.key] = sequence
            self._report.prefilled.append(Prefilled(sequence.key, output, tuple(sequence.blocks)))
            return
        self._report.outputs.append(output)
        if reason is not None:
            del self._running[sequence.key]
            self.blocks.release(sequence.blocks)
