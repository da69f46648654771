"""Any order of requests, transfers, cancels and late writes: tokens stay right, books stay balanced, nothing leaks."""

from __future__ import annotations

from driving import Core, mock_tokens, page_bytes, request, settings
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored, KvEvent, TokenOutput

BLOCK_SIZE = 3
CONTEXT = 40

# Few different tokens, so that prompts share prefixes and blocks are computed twice.
PROMPTS = st.lists(st.sampled_from([7, 8]), min_size=1, max_size=26)
COUNTS = st.integers(1, 16)
SEEDS = st.integers(0, 1)


def apply(resident: dict[int, int | None], events: list[KvEvent]) -> None:
    """Follow events as a router does: a block comes after its parent and leaves after its children."""
    for event in events:
        if isinstance(event, BlocksStored):
            parent = event.parent
            for block in event.blocks:
                assert block.sequence_hash not in resident
                assert parent is None or parent in resident
                resident[block.sequence_hash] = parent
                parent = block.sequence_hash
        elif isinstance(event, BlocksRemoved):
            for name in event.sequence_hashes:
                del resident[name]
                assert name not in resident.values()


class Life(RuleBasedStateMachine):
    """The worker's side of the scheduler, played at random."""

    live = Bundle("live")
    reserving = Bundle("reserving")
    holding = Bundle("holding")
    quarantined = Bundle("quarantined")

    @initialize(
        blocks=st.integers(9, 24),
        max_sequences=st.integers(1, 5),
        max_batched_tokens=st.integers(1, 20),
        prefix_caching=st.booleans(),
    )
    def start(self, blocks: int, max_sequences: int, max_batched_tokens: int, prefix_caching: bool):
        self.limit = min(CONTEXT, blocks * BLOCK_SIZE)
        worker = settings(
            blocks=blocks,
            block_size=BLOCK_SIZE,
            context_length=CONTEXT,
            max_sequences=max_sequences,
            max_batched_tokens=max_batched_tokens,
            prefix_caching=prefix_caching,
        )
        self.core = Core(worker)
        self.key = 0
        self.expected: dict[int, list[int]] = {}
        self.dropped: set[int] = set()
        self.late: dict[int, tuple[int, ...]] = {}
        self.resident: dict[int, int | None] = {}
        self.sent: dict[int, list[int]] = {}

    def enter(self, how: str, prompt: list[int], count: int, seed: int, **fields: object) -> int:
        self.key += 1
        room = self.limit - len(prompt)
        expected = mock_tokens(prompt, 1 if "hold_kv" in fields else min(count, room), seed) if room > 0 else []
        self.expected[self.key] = expected
        getattr(self.core.scheduler, how)(request(self.key, prompt, count, seed=seed, **fields))
        return self.key

    @rule(target=live, prompt=PROMPTS, count=COUNTS, seed=SEEDS)
    def add(self, prompt: list[int], count: int, seed: int):
        return self.enter("add", prompt, count, seed)

    @rule(target=holding, prompt=PROMPTS, count=COUNTS, seed=SEEDS)
    def prefill(self, prompt: list[int], count: int, seed: int):
        key = self.enter("add", prompt, count, seed, hold_kv=True)
        self.sent[key] = prompt
        return key

    @rule(target=reserving, prompt=PROMPTS, count=COUNTS, seed=SEEDS)
    def reserve(self, prompt: list[int], count: int, seed: int):
        return self.enter("reserve", prompt, count, seed), prompt

    @rule(target=reserving, job=consumes(reserving))
    def fill_and_resume(self, job: tuple[int, list[int]]):
        key, prompt = job
        reserved = self.core.reserved.pop(key, None)
        if reserved is None:
            return job
        pages = page_bytes(prompt, BLOCK_SIZE)
        for position in range(len(pages)):
            block = self.core.pool.block(reserved.blocks[position])
            if position < reserved.resident:
                assert bytes(block) == pages[position], "not resident at all"
            block[:] = pages[position]
        first = self.expected[key][0]
        self.core.tokens[key].append(first)
        self.core.scheduler.resume(key, TokenOutput(key, (first,)))
        return multiple()

    @rule(job=consumes(reserving))
    def compute(self, job: tuple[int, list[int]]):
        self.core.reserved.pop(job[0], None)
        self.core.scheduler.compute(job[0])

    @rule(target=quarantined, job=consumes(reserving))
    def quarantine(self, job: tuple[int, list[int]]):
        key = job[0]
        self.dropped.add(key)
        reserved = self.core.reserved.pop(key, None)
        if reserved is not None:
            self.late[key] = reserved.blocks[reserved.resident :]
        self.core.scheduler.quarantine(key)
        return key

    @rule(key=consumes(quarantined))
    def end_quarantine(self, key: int):
        self.late.pop(key, None)
        self.core.scheduler.release(key)

    @rule(target=holding, key=consumes(holding))
    def release(self, key: int):
        if key not in self.core.prefilled:
            return key
        del self.sent[key]
        self.core.scheduler.release(key)
        return multiple()

    @rule(key=consumes(live))
    def cancel(self, key: int):
        self.dropped.add(key)
        self.core.scheduler.cancel(key)

    @rule(key=consumes(holding))
    def cancel_prefill(self, key: int):
        self.dropped.add(key)
        del self.sent[key]
        self.core.scheduler.cancel(key)

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int):
        for _ in range(steps):
            self.core.step()
            self.follow()
            for blocks in self.late.values():
                for block in blocks:
                    self.core.pool.block(block)[:] = b"\xee" * (8 * BLOCK_SIZE)

    def follow(self) -> None:
        apply(self.resident, self.core.report.events)
        told: dict[int, int | None] = {}
        apply(told, self.core.scheduler.blocks.resident())
        assert told == self.resident
        stats = self.core.report.stats
        unused = self.core.scheduler.blocks.available - stats.cached_blocks
        assert unused + stats.active_blocks + stats.cached_blocks + stats.quarantined_blocks == stats.total_blocks
        self.check_sent()
        for key, prefilled in self.core.prefilled.items():
            assert list(prefilled.output.tokens) == self.expected[key]

    def check_sent(self) -> None:
        """What was told of a prompt stays as it was told until the prompt is let go, all of it told once in the end."""
        for key, prompt in self.sent.items():
            pages, told = page_bytes(prompt, BLOCK_SIZE), 0
            for written in self.core.written[key]:
                assert written.layers == range(1)
                assert written.first == told, "in order, nothing twice"
                told += len(written.blocks)
                for page, block in zip(pages[written.first :], written.blocks, strict=False):
                    assert bytes(self.core.pool.block(block)) == page, "changed while it may be read"
            if key in self.core.prefilled:
                assert told == len(pages) == len(self.core.prefilled[key].blocks)

    @invariant()
    def balanced(self):
        if hasattr(self, "core"):
            self.core.scheduler.check_integrity()

    def teardown(self):
        if not hasattr(self, "core"):
            return
        self.sent.clear()
        for key in list(self.expected):
            self.core.scheduler.compute(key)
            if key in self.dropped or key in self.core.prefilled:
                self.core.scheduler.release(key)
        for _ in range(2000):
            steps = self.core.step()
            self.follow()
            for key in self.core.prefilled:
                self.core.scheduler.release(key)
            if not steps.chunks and len(self.done()) == len(self.expected):
                break
        self.core.step()
        assert self.done() == set(self.expected)
        for key, tokens in self.core.tokens.items():
            expected = self.expected[key]
            assert tokens == (expected[: len(tokens)] if key in self.dropped else expected)
        stats = self.core.report.stats
        assert (stats.active_blocks, stats.quarantined_blocks, stats.waiting, stats.running) == (0, 0, 0, 0)
        self.core.close()

    def done(self) -> set[int]:
        return set(self.core.finished) | set(self.core.prefilled) | self.dropped


Life.TestCase.settings = hypothesis_settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase
