"""A decode worker in the test's own process: the test holds up the reads of its disk tier, and plays prefill worker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
from fake_prefill import FakePrefill
from worker_rig import BLOCK_SIZE, Frontend, Run, make_run, running, until, worker_settings

from dynamoc.runtime.engines.generator import capacity_of
from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.native.scheduler import Scheduler
from dynamoc.runtime.engines.registry import make_engine
from dynamoc.runtime.kv.tiers.ledger import Entry
from dynamoc.runtime.kv.tiers.store import Failure, Store
from dynamoc.runtime.manifest import CacheSettings, DiskTier
from dynamoc.runtime.process import load_context
from dynamoc.runtime.worker.worker import Worker

P, D = "prefill-0", "decode-0"
FRAME = 8192
BLOCKS = 40
IN_TIERS = list(range(3000, 3000 + 6 * BLOCK_SIZE + 1))
"""What the decode worker's disk holds six blocks of."""
PROMPT = IN_TIERS[:-1] + list(range(4000, 4000 + 4 * BLOCK_SIZE + 2))
"""Begins with those six; five more are the prefill worker's."""
TIER_BLOCKS, PEER_BLOCKS = 6, 5
WAIT_S = 20.0


class SlowReads:
    """Before a store: reads take `delay_s` longer and wait for `go`.

    Pages from number `lacks` of a read on are not there, those from number `damages` on are wrong.
    """

    def __init__(self, store: Store) -> None:
        self.delay_s = 0.0
        self.lacks = self.damages = 1 << 20
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self._read = store.read
        store.read = self.read  # type: ignore[method-assign]

    def read(self, entries: Sequence[Entry], pieces: Sequence[memoryview], start: int = 0) -> list[Failure | None]:
        self.began.set()
        time.sleep(self.delay_s)
        self.go.wait(WAIT_S)
        failures = self._read(entries, pieces, start)
        for piece in pieces[self.damages :]:
            piece[-1] ^= 1
            piece[len(piece) // 2 + 7] ^= 4
        return [None if number < self.lacks else Failure("broken") for number in range(len(failures))]


class Decode:
    """The worker under test and everybody it talks to."""

    def __init__(self, run: Run, prefill: FakePrefill, worker: Worker, engine: CoreEngine, frontend: Frontend) -> None:
        self.peer = worker._peers[P]
        self.run = run
        self.prefill = prefill
        self.engine = engine
        self.frontend = frontend
        assert engine._stack is not None
        self.stack = engine._stack
        self.reads = SlowReads(self.stack.stores[0])

    @property
    def scheduler(self) -> Scheduler:
        assert self.engine._scheduler is not None
        return self.engine._scheduler

    async def fill_tiers(self) -> None:
        """Have `IN_TIERS` on disk and nothing of it on the device."""
        await self.answer(900, IN_TIERS)
        await until(
            lambda: len(self.stack.stores[0].ledger) == TIER_BLOCKS and self.stack.idle(), "all of it is on disk"
        )
        for number in range(8):
            await self.answer(901 + number, [number] * (10 * BLOCK_SIZE))
        await until(self.stack.idle, "nothing is on its way")
        assert not self.scheduler.blocks.match(IN_TIERS)

    async def answer(self, request_id: int, prompt: list[int]) -> list[int]:
        """Ask for a prompt that is computed here; the mocker checks every page that it reads."""
        self.frontend.generate(request_id, prompt, max_tokens=6)
        assert (await self.frontend.answer(request_id)).finish == "length"
        return self.frontend.tokens(request_id)

    def ask(self, request_id: int = 1, prompt: Sequence[int] = PROMPT, **fields: object) -> None:
        """A request whose prompt the prefill worker is to compute."""
        self.frontend.generate(request_id, list(prompt), max_tokens=6, prefill=self.run.address(P), **fields)

    async def asked(self, count: int = 1) -> None:
        await until(lambda: len(self.prefill.asked) >= count, f"the prefill worker was asked {count} times")

    async def prefilled(self, number: int = 0) -> None:
        """The prefill worker does what it was asked."""
        await self.prefill.push(self.prefill.asked[number])
        self.prefill.say_done(self.prefill.asked[number])

    def metric(self, name: str, **labels: str) -> float:
        return self.run.metric(D, name, **labels)

    def local_prefills(self, reason: str) -> float:
        return self.metric("dynamoc_kv_local_prefills_total", reason=reason)

    async def idle(self) -> None:
        """No block is used by anybody, and the books say so too."""
        blocks = self.scheduler.blocks
        await until(lambda: not blocks.active and not blocks.quarantined, "all blocks are back")
        self.engine._post(lambda scheduler: scheduler.check_integrity())


@contextlib.asynccontextmanager
async def decoding(folder: Path, transport: str = "shm") -> AsyncIterator[Decode]:
    """With six blocks of `PROMPT` on the decode worker's disk."""
    settings = worker_settings("mocker", transport, blocks=BLOCKS, speedup=0)
    run = make_run(folder, transport, prefill_0=settings, decode_0=settings)
    async with running(run):
        fake = FakePrefill(run, P, transport)
        await fake.listen()
        cache = CacheSettings(host_bytes=None, disk=DiskTier(str(folder / "disk"), 400 * FRAME), admission="all")
        tiered = msgspec.structs.replace(settings, cache=cache)
        engine = make_engine(tiered, folder, "mock")
        assert isinstance(engine, CoreEngine)
        engine.load(lambda _fraction, _what: None)
        worker = Worker(load_context(folder, D), engine, capacity_of(engine, "mock"), asyncio.Event(), exchange=engine)
        decode: Decode | None = None
        try:
            await worker.start()
            await until(lambda: fake.attached, "the pool was offered")
            decode = Decode(run, fake, worker, engine, await run.frontend(D))
            await decode.fill_tiers()
            yield decode
        finally:
            if decode is not None:
                decode.reads.go.set()
            await worker.close()
            await asyncio.to_thread(engine.stop)
            await fake.close()
    assert not worker.failure
