"""A pool across the ends of its workers: what is found again is what was there, whoever still writes to the rest."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import xxhash
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dynamoc.runtime.engines.native.blocks import BlockManager, Node
from dynamoc.runtime.engines.native.keeping import Keeping
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service.journal import Contents, Journal
from dynamoc.runtime.kv.pool import HostPool

BLOCKS = 12
SIZE = 2
LAYOUT = KvLayout(layers=1, heads=1, head_dim=8, block_size=SIZE, dtype="uint8", item_bytes=1)
WRITER = b"a prefill worker"

prompts = st.lists(st.integers(0, 1), min_size=SIZE + 1, max_size=4 * SIZE + 1)


def content(tokens: list[int]) -> bytes:
    """The KV of the last block of these tokens: it depends on all of them."""
    return random.Random(repr(tokens)).randbytes(LAYOUT.block_bytes)


def path(node: Node) -> list[int]:
    """All tokens up to a block's end."""
    own = [int.from_bytes(node.tokens[4 * n : 4 * n + 4], "little") for n in range(SIZE)]
    return (path(node.parent) if node.parent else []) + own


class Life:
    """One worker's: as `KeptPool`, over memory that is the test's."""

    lost_because = ""

    def __init__(self, fd: int, journal: bytearray) -> None:
        self.pool = HostPool(LAYOUT, BLOCKS, fd=os.dup(fd))
        self.journal = Journal(memoryview(journal), BLOCKS, SIZE)
        self.left: Contents = self.journal.read()
        self.blocks = BlockManager(BLOCKS, SIZE)
        self.keeping = Keeping(self, self.blocks, lambda call: call())  # type: ignore[arg-type]
        self.journal.admit(WRITER)

    def digests(self, blocks: list[int]) -> list[bytes]:
        return [xxhash.xxh3_128_digest(self.pool.block(block)) for block in blocks]

    def is_kept(self) -> bool:
        return True


@dataclass(eq=False)
class Job:
    """A sequence. `peer`: which of its blocks somebody else writes."""

    tokens: list[int]
    blocks: list[int]
    resident: int
    peer: list[int] = field(default_factory=list)


class KeptLives(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        made = HostPool(LAYOUT, BLOCKS)
        self.fd = os.dup(made.fd)
        made.close()
        self.journal = bytearray(Journal.size(BLOCKS, SIZE))
        self.chance = random.Random(1)
        self.jobs: list[Job] = []
        self.quarantined: list[list[int]] = []
        self.late: set[int] = set()
        self.flipped: set[int] = set()
        self.life = Life(self.fd, self.journal)

    @rule(tokens=prompts, by_peer=st.booleans())
    def admit(self, tokens: list[int], by_peer: bool) -> None:
        allocation = self.life.blocks.allocate(tokens)
        if allocation is None:
            return
        job = Job(tokens, *allocation)
        if by_peer:
            job.peer = job.blocks[job.resident :]
            self.life.blocks.lend(job.peer)
        self.jobs.append(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), flush=st.booleans())
    def compute(self, data: st.DataObject, flush: bool) -> None:
        """All of a prompt, here or by its peer; the step is perhaps cut off before it is recorded."""
        job = data.draw(st.sampled_from(self.jobs))
        for number in range(job.resident, len(job.tokens) // SIZE):
            self.life.pool.block(job.blocks[number])[:] = content(job.tokens[: (number + 1) * SIZE])
        job.peer = []
        self.life.blocks.register(job.tokens, job.blocks, len(job.tokens))
        job.resident = len(job.tokens) // SIZE
        if flush:
            self.life.keeping.flush()
        else:
            self.crash()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """Given back; or, while a peer may write there, out of use."""
        job = data.draw(st.sampled_from(self.jobs))
        self.jobs.remove(job)
        if job.peer:
            self.life.blocks.release(job.blocks[: job.resident])
            self.life.blocks.quarantine(job.peer)
            self.quarantined.append(job.peer)
        else:
            self.life.blocks.release(job.blocks)

    @precondition(lambda self: self.quarantined)
    @rule()
    def readmit(self) -> None:
        self.life.blocks.readmit(self.quarantined.pop())

    @rule(data=st.data())
    def write_late(self, data: st.DataObject) -> None:
        """Whoever was asked in this life or before, and has not stopped, writes what it likes."""
        lent = {block for job in self.jobs for block in job.peer}.union(*self.quarantined, self.late)
        if lent:
            block = data.draw(st.sampled_from(sorted(lent)))
            self.life.pool.block(block)[:] = self.chance.randbytes(LAYOUT.block_bytes)

    @rule()
    def crash(self) -> None:
        self.late.update(*(job.peer for job in self.jobs), *self.quarantined)
        self.jobs, self.quarantined = [], []
        before = {block: path(node) for block in range(BLOCKS) if (node := self.life.blocks.node(block)) is not None}
        fresh = set(self.life.keeping._fresh)
        self.life.pool.close()
        self.life = Life(self.fd, self.journal)
        found = {block: path(node) for block in range(BLOCKS) if (node := self.life.blocks.node(block)) is not None}
        assert found.items() <= before.items()
        if not self.flipped:
            lost = {tuple(before[block]) for block in fresh}
            kept = [block for block, tokens in before.items() if not any(tokens[: len(t)] == list(t) for t in lost)]
            assert set(kept) <= found.keys(), "what was recorded is found"
        self.flipped = set()

    @rule(block=st.integers(0, BLOCKS - 1))
    def flip_and_crash(self, block: int) -> None:
        """A bit changes while nobody is there."""
        life = self.life
        if block not in self.late and life.blocks.node(block) is not None:
            self.flipped = {block}
            life.pool.block(block)[self.chance.randrange(LAYOUT.block_bytes)] ^= 16
            self.crash()
            assert self.life.blocks.node(block) is None
            assert self.life.keeping.recovery.wrong <= 1

    @precondition(lambda self: self.late)
    @rule()
    def stop_the_late(self) -> None:
        self.late = set()
        self.life.keeping.readmit()

    @invariant()
    def holds_what_it_says(self) -> None:
        blocks = self.life.blocks
        for block in range(BLOCKS):
            node = blocks.node(block)
            if node is not None:
                assert bytes(self.life.pool.block(block)) == content(path(node))
        blocks.check_integrity(job.blocks for job in self.jobs)
        assert blocks.quarantined >= len(self.late)
        assert not self.late & {block for job in self.jobs for block in job.blocks}

    def teardown(self) -> None:
        if hasattr(self, "fd"):
            self.life.pool.close()
            os.close(self.fd)


TestKeptLives = KeptLives.TestCase
TestKeptLives.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
