"""A prefill worker whose every step the test decides, over a real transport in the test's own process."""

from __future__ import annotations

import asyncio

import numpy as np
from worker_rig import BLOCK_SIZE, HOST, KEY, Run

from dynamoc.runtime.engines.pages import next_word, page_layout
from dynamoc.runtime.kv.hashing import unpack_tokens
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.checksums import digest, units_of
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, indices_of
from dynamoc.runtime.kv.transfer.rows import pick, rows_of
from dynamoc.runtime.manifest import Role
from dynamoc.runtime.plane.connection import Connection, Identity, PlaneServer, listen
from dynamoc.runtime.plane.messages import (
    AbortPrefill,
    AttachPool,
    Message,
    PoolAttached,
    PrefillAborted,
    PrefillDone,
    PrefillFailed,
    PrefillRequest,
    PrefillWritten,
    TokenOutput,
    WrittenLayers,
)
from dynamoc.runtime.transports.protocol import Completion, Peer
from dynamoc.runtime.transports.registry import make_transport

FIRST_TOKEN = 1234


class FakePrefill:
    """Attaches every pool; the test answers the prompts."""

    def __init__(self, run: Run, name: str, transport: str, refusal: str = "") -> None:
        self.asked: list[PrefillRequest] = []
        self.aborted: list[AbortPrefill] = []
        self.connection: Connection | None = None
        self.attached = 0
        self._run = run
        self._name = name
        self._refusal = refusal
        self._pool = HostPool(page_layout(BLOCK_SIZE), 64)
        self._transport = make_transport(transport, KEY)
        self._transport.register(self._pool)
        self._peer: Peer | None = None
        self._server: PlaneServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, incarnation: int = 0) -> None:
        identity = Identity(self._name, Role.PREFILL, incarnation)
        self._server = await listen(HOST, self._run.ports[self._name]["plane"], identity, KEY, self)

    async def hang_up(self) -> None:
        """Nobody reaches this worker any more; its process lives on."""
        if self._server is not None:
            await self._server.close()
            self._server = None
        if self.connection is not None:
            self.connection.abort("hung up")

    async def close(self) -> None:
        await self.hang_up()
        await self._transport.close()
        if self._peer is not None:
            self._peer.close()
        self._pool.close()

    # ---- what the test lets it do ---------------------------------------------------------------------------

    async def push(self, request: PrefillRequest, flip: int | None = None, count: int | None = None) -> Completion:
        """Write the prompt's KV as the mocker would: all of it or `count` blocks, perhaps with a wrong bit in one."""
        assert self._peer is not None
        self._compute(request)
        if flip is not None:
            self._pool.block(flip)[5] ^= 0x40
        destinations = request.blocks[:count]
        pairs = BlockPairs.of(range(request.first_block, request.first_block + len(destinations)), destinations)
        return await self._transport.write(self._peer, pairs, 5, request.generation).wait()

    def say_done(self, request: PrefillRequest) -> None:
        """Claim that all blocks are written, with the checksums they should have."""
        self._compute(request)
        blocks = indices_of(range(request.first_block, request.first_block + len(request.blocks)))
        layout = self._pool.layout
        rows = rows_of(self._pool.data, layout.block_bytes, layout.span(None))
        sums = [digest(pick(rows, blocks[unit])) for unit in units_of(blocks.size, layout.block_bytes)]
        written = WrittenLayers(0, layout.layers, 0, blocks.size, np.array(sums, "<u8").tobytes())
        output = TokenOutput(request.request_id, (FIRST_TOKEN,))
        name = (request.request_id, request.generation)
        moved = blocks.size * layout.block_bytes
        checksum = self._transport.checksum
        self.say(PrefillWritten(*name, (written,)))
        self.say(PrefillDone(*name, output, checksum, self._transport.name, moved, 0.1, 0.1, 0.1))

    def say_failed(self, request: PrefillRequest, reason: str, *, retryable: bool) -> None:
        self.say(PrefillFailed(request.request_id, request.generation, reason, retryable))

    def say_aborted(self, request: PrefillRequest) -> None:
        self.say(PrefillAborted(request.request_id, request.generation))

    def say(self, message: Message) -> None:
        assert self.connection is not None
        self.connection.send(message)

    # ---- Handler --------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self.connection = connection

    def received(self, connection: Connection, message: Message) -> None:
        if isinstance(message, AttachPool):
            task = asyncio.create_task(self._attach(connection, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(message, PrefillRequest):
            self.asked.append(message)
        else:
            assert isinstance(message, AbortPrefill)
            self.aborted.append(message)

    def closed(self, connection: Connection, reason: str) -> None:
        del connection, reason
        self.connection = None

    async def _attach(self, connection: Connection, offer: AttachPool) -> None:
        if not self._refusal:
            self._peer = await self._transport.connect(offer.metadata, 5)
        connection.send(PoolAttached(offer.transport, not self._refusal, self._refusal, self._transport.writer()))
        self.attached += 1

    def _compute(self, request: PrefillRequest) -> None:
        word, self._pool.data[:] = 0, bytes(self._pool.data_bytes)
        for index, token in enumerate(unpack_tokens(request.tokens)):
            word = next_word(word, token)
            self._pool.data[8 * index : 8 * index + 8] = word.to_bytes(8, "little")
