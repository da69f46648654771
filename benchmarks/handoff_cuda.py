"""How long a decode worker waits for KV once the prefill of its prompt is computed: whole, and by groups of layers.

    python benchmarks/handoff_cuda.py [--rounds 11] [--output FILE]

A prefill process computes the products of Llama-3.1-8B's layers for 8,192 tokens on GPU 0 (random weights, bf16) and
stores each layer's keys and values in its pool: 512 blocks of 2 MiB, 1 GiB. A worker's `Pushes` write them by `nvlink`
onto shuffled blocks of a decode process on GPU 1: all of it after the last layer, in parts or in one write, or group by
group while later layers compute. The decode process verifies with a worker's `Arrivals` what it is told of, and says
when all of it is right. Exposed is the time from the last layer's end on GPU 0 until then, messages included; both
processes read one clock. Before each round the destination is poisoned; after it both ends hash all blocks in host
memory by code that is not ours. Modes take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop
import xxhash
from cuda_run import against, need_gpus

from dynamoc.runtime.engines.native.memory import KvMemory
from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.kv.cuda.device import runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.plane.messages import PrefillRequest, Sampling, WrittenLayers
from dynamoc.runtime.transports.nvlink import NvlinkTransport
from dynamoc.runtime.transports.protocol import Peer
from dynamoc.runtime.worker.arrivals import Arrivals
from dynamoc.runtime.worker.pushes import Pace, Pushes
from dynamoc.runtime.worker.telemetry import Telemetry

LAYERS, KV_HEADS, HEADS, HEAD_DIM, WIDTH, MLP = 32, 8, 32, 128, 4096, 14336
TOKENS, BLOCK_SIZE = 8192, 16
BLOCKS = TOKENS // BLOCK_SIZE
PARTS = {"whole, one write": 1 << 60, "whole, parts of 128 MiB": 128 << 20}
"""Modes that cut otherwise than the transport asks for."""
MODES: dict[str, tuple[int, ...]] = {
    "whole": (32,),
    "whole, parts of 128 MiB": (32,),
    "whole, one write": (32,),
    "4 groups": (8,) * 4,
    "8 groups": (4,) * 8,
    "16 groups": (2,) * 16,
    "tapered": (8, 8, 8, 4, 2, 1, 1),
}
"""Layers that are told of at once. `whole` is all of them after the last one; what ends a prompt goes in parts."""
TARGETS = {"whole": 3.5, "tapered": 1.0}
"""Milliseconds."""
POISON = 0xA5
LIMIT_S = 20.0
KEY = b"benchmark" * 4
SAY = struct.Struct("<BIIIIId")
"""What, first and end layer, first block, blocks, bytes that follow, a time.

BEGIN poisons, WRITTEN is answered by READY at the last.
"""
BEGIN, WRITTEN, READY, HASH, OFFER = range(5)


NOTHING = WrittenLayers(0, 0, 0, 0, b"")


def layout() -> KvLayout:
    """The pool of both ends."""
    return KvLayout(LAYERS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, "bfloat16", 2)


def orders() -> tuple[np.ndarray, np.ndarray]:
    """Blocks of the prompt here and there."""
    return tuple(np.random.default_rng(seed).permutation(BLOCKS) for seed in (1, 2))  # type: ignore[return-value]


def hash_of(pool: DevicePool, blocks: np.ndarray) -> bytes:
    """Of the blocks in this order, in host memory."""
    data = np.empty(pool.data_bytes, np.uint8)
    runtime.memcpy(data.ctypes.data, pool.address, data.size, 2)
    rows, digest = data.reshape(pool.blocks, -1), xxhash.xxh3_64()
    for block in blocks:
        digest.update(rows[block].data)
    return digest.digest()


class Line:
    """Messages between the two processes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, what: int, part: WrittenLayers = NOTHING, at: float = 0.0) -> None:
        """Send one."""
        data = part.checksums
        self._writer.write(SAY.pack(what, part.first, part.end, part.first_block, part.blocks, len(data), at) + data)

    async def hear(self) -> tuple[int, WrittenLayers, float]:
        """Receive one."""
        what, first, end, first_block, blocks, size, at = SAY.unpack(await self._reader.readexactly(SAY.size))
        return what, WrittenLayers(first, end, first_block, blocks, await self._reader.readexactly(size)), at


def carrying(data: bytes) -> WrittenLayers:
    """Other bytes in the same form."""
    return WrittenLayers(0, 0, 0, 0, data)


# ---- the decode process ------------------------------------------------------------------------------------


async def decode(port: int) -> None:
    """Own the destination until the other end hangs up."""
    pool = DevicePool(layout(), BLOCKS, 0)
    transport = NvlinkTransport(KEY)
    transport.register(pool)
    await transport.start("", 0)
    line = Line(*await asyncio.open_connection("127.0.0.1", port))
    line.say(OFFER, carrying(transport.metadata()))
    _, blocks = orders()
    arrivals, cells = Arrivals(transport, blocks.tolist(), LAYERS), 0
    while True:
        try:
            what, part, _ = await line.hear()
        except asyncio.IncompleteReadError:
            break
        if what == BEGIN:
            runtime.memset(pool.address, POISON, pool.data_bytes)
            runtime.deviceSynchronize()
            arrivals, cells = Arrivals(transport, blocks.tolist(), LAYERS), 0
            line.say(BEGIN)
        elif what == WRITTEN:
            arrivals.add([part])
            cells += part.blocks * (part.end - part.first)
            if cells == BLOCKS * LAYERS:
                wrong = await arrivals.wrong()
                line.say(READY, carrying(b"" if not wrong else b"%d blocks are wrong" % wrong), time.monotonic())
        else:
            line.say(HASH, carrying(hash_of(pool, blocks)))
    await transport.close()
    pool.close()


# ---- the prefill process -----------------------------------------------------------------------------------


class Model:
    """The matrix products of one layer, used by all of them; keys and values go to the pool."""

    def __init__(self, memory: KvMemory, blocks: np.ndarray) -> None:
        self.pool = memory.tensor.view(BLOCKS, LAYERS, 2, KV_HEADS, BLOCK_SIZE, HEAD_DIM)
        self.blocks = torch.from_numpy(blocks).cuda()
        shapes = {"qkv": ((HEADS + 2 * KV_HEADS) * HEAD_DIM, WIDTH), "out": (WIDTH, HEADS * HEAD_DIM)}
        shapes |= {"up": (2 * MLP, WIDTH), "down": (WIDTH, MLP)}
        self.weights = {
            name: torch.randn(shape, device="cuda", dtype=torch.bfloat16) / shape[1] ** 0.5
            for name, shape in shapes.items()
        }

    def layer(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Enqueue one layer."""
        weights, query = self.weights, HEADS * HEAD_DIM
        qkv = x @ weights["qkv"].T
        kv = qkv[:, query:].view(BLOCKS, BLOCK_SIZE, 2, KV_HEADS, HEAD_DIM).permute(0, 2, 3, 1, 4)
        self.pool[:, index].index_copy_(0, self.blocks, kv)
        x = x + qkv[:, :query] @ weights["out"].T
        gate, up = (x @ weights["up"].T).chunk(2, -1)
        return torch.nn.functional.normalize(x + (gate * up) @ weights["down"].T, dim=-1) * WIDTH**0.5


class Prefill:
    """The other end of the line."""

    def __init__(self, line: Line, transport: NvlinkTransport, peer: Peer, memory: KvMemory) -> None:
        assert isinstance(memory.pool, DevicePool)
        self.line, self.transport, self.peer, self.pool = line, transport, peer, memory.pool
        self.sources, self.destinations = orders()
        self.model = Model(memory, self.sources)
        self.part_bytes = transport.part_bytes
        self.tags = iter(range(1, 1_000_000))
        self.pace, self.telemetry = Pace(), Telemetry(Metrics(), transport.name)

    async def round(self, mode: str) -> dict[str, float]:
        """Compute, push, verify; seconds."""
        self.line.say(BEGIN)
        await self.line.hear()
        x = torch.randn(TOKENS, WIDTH, device="cuda", dtype=torch.bfloat16)
        torch.cuda.synchronize()
        self.transport.part_bytes = PARTS.get(mode, self.part_bytes)
        pushes, told = self._pushes(), [0.0]

        def on_arrived(part: WrittenLayers) -> None:
            self.line.say(WRITTEN, part)
            told[0] = time.monotonic()

        pushes.on_arrived = on_arrived
        first, began, blocks = 0, time.monotonic(), tuple(self.sources.tolist())
        events = []  # they live until the round is over
        for size in MODES[mode]:
            layers = range(first, first := first + size)
            for index in layers:
                x = self.model.layer(x, index)
            events.append(torch.cuda.Event())
            events[-1].record()
            pushes.written(Written(1, 0, blocks, layers, events[-1].cuda_event))
            await asyncio.sleep(0)
        done = await asyncio.to_thread(_when, events[-1])
        await pushes.settle()
        assert not pushes.failure, pushes.failure
        what, answer, ready = await asyncio.wait_for(self.line.hear(), LIMIT_S)
        assert (what, answer.checksums) == (READY, b""), answer.checksums
        self.line.say(HASH)
        mine = hash_of(self.pool, self.sources)
        assert (await self.line.hear())[1].checksums == mine, "what is there is not what was computed"
        return {"exposed": ready - done, "compute": done - began, "pushed": told[0] - done}

    def _pushes(self) -> Pushes:
        tag, expires_at = next(self.tags), time.monotonic() + LIMIT_S
        blocks = tuple(self.destinations.tolist())
        request = PrefillRequest(1, tag, b"", Sampling(max_tokens=1), 0, blocks, LIMIT_S)
        return Pushes(self.transport, layout(), request, lambda: self.peer, expires_at, self.pace, self.telemetry)


def _when(event: torch.cuda.Event) -> float:
    event.synchronize()
    return time.monotonic()


async def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """All modes, in turns."""
    arrived: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda r, w: arrived.set_result(Line(r, w)), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "1"}
    other = await asyncio.create_subprocess_exec(sys.executable, __file__, "--decode", str(port), env=environ)
    line = await asyncio.wait_for(arrived, 60)
    memory = KvMemory(layout(), BLOCKS, torch.bfloat16, torch.device("cuda", 0))
    transport = NvlinkTransport(KEY)
    transport.register(memory.pool)
    _, offer, _ = await line.hear()
    prefill = Prefill(line, transport, await transport.connect(offer.checksums, 60), memory)
    found: dict[str, dict[str, list[float]]] = {mode: {} for mode in MODES}
    for turn in range(rounds + 2):
        for mode in MODES:
            seconds = await prefill.round(mode)
            for name, value in seconds.items() if turn > 1 else ():  # the first two warm up
                found[mode].setdefault(name, []).append(value)
    await transport.close()
    server.close()
    other.terminate()
    await other.wait()
    return found


def figures(found: dict[str, dict[str, list[float]]], facts: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """One object a mode; the ceiling is the push of what is left after the last layer at the speed of a plain copy."""
    made = []
    for mode, seconds in found.items():
        exposed = [1e3 * value for value in seconds["exposed"]]
        left_bytes = layout().layer_bytes * BLOCKS * MODES[mode][-1]
        made.append(
            {
                "figure": f"exposed hand-over of 1 GiB over NVLink, {mode}",
                "layers": MODES[mode],
                "ours": round(statistics.median(exposed), 3),
                "ceiling": round(left_bytes / 390e9 * 1e3, 3),
                "peer": None,
                "target": TARGETS.get(mode),
                "unit": "ms",
                "n": rounds,
                "fastest": round(min(exposed), 3),
                "slowest": round(max(exposed), 3),
                "pushed_ms": round(1e3 * statistics.median(seconds["pushed"]), 3),
                "compute_ms": round(1e3 * statistics.median(seconds["compute"]), 1),
                **facts,
            }
        )
    return made


def main() -> None:
    """Measure, print, write `results/handoff_cuda.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "handoff_cuda.json")
    options = parser.parse_args()
    need_gpus(2)
    import cuda_bench as bench

    facts = bench.facts(f"python benchmarks/handoff_cuda.py --rounds {options.rounds}")
    found = uvloop.run(measure(options.rounds))
    made = figures(found, facts, options.rounds)
    bench.save(options.output, made)
    names = ("exposed ms", "fastest", "slowest", "pushed", "at copy speed", "compute ms")
    print(f"{'mode':>24} " + " ".join(f"{name:>{len(name)}}" for name in names))
    for mode, row in zip(found, made, strict=True):
        numbers = (row["ours"], row["fastest"], row["slowest"], row["pushed_ms"], row["ceiling"], row["compute_ms"])
        cells = " ".join(f"{n:{w}}" for n, w in zip(numbers, map(len, names), strict=True))
        target = row["target"] and f"   target {row['target']:g}: {against(row['ours'], row['target'], most=True)}"
        print(f"{mode:>24} {cells}{target or ''}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--decode"]:
        uvloop.run(decode(int(sys.argv[2])))
    else:
        main()
