"""How long a decode worker waits for KV once the prefill of its prompt is computed: whole, and by groups of layers.

    python benchmarks/handoff_cuda.py [--rounds 11] [--output FILE]

A prefill process computes the products of Llama-3.1-8B's layers for 8,192 tokens on GPU 0 (random weights, bf16) and
stores each layer's keys and values in its pool: 512 blocks of 2 MiB, 1 GiB. Our `nvlink` transport pushes them onto
shuffled blocks of a decode process on GPU 1, all at once after the last layer, or group by group while later layers
compute. The decode process verifies every group's checksums and says when it has them all. Exposed is the time from
the last layer's end on GPU 0 until then, messages included; both processes read one clock. Before each round the
destination is poisoned; after it both ends hash all blocks in host memory by code that is not ours. Modes take turns.
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

from dynamoc.runtime.engines.native.memory import KvMemory
from dynamoc.runtime.kv.cuda.device import runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports.nvlink import NvlinkTransport
from dynamoc.runtime.transports.protocol import Outcome, Peer

LAYERS, KV_HEADS, HEADS, HEAD_DIM, WIDTH, MLP = 32, 8, 32, 128, 4096, 14336
TOKENS, BLOCK_SIZE = 8192, 16
BLOCKS = TOKENS // BLOCK_SIZE
MODES: dict[str, tuple[int, ...]] = {
    "whole": (32,),
    "4 groups": (8,) * 4,
    "8 groups": (4,) * 8,
    "16 groups": (2,) * 16,
    "tapered": (8, 8, 8, 4, 2, 1, 1),
}
"""Layers of each write. `whole` is one write after the last layer."""
POISON = 0xA5
LIMIT_S = 20.0
KEY = b"benchmark" * 4
SAY = struct.Struct("<BIIId")
"""What, first and end layer, bytes that follow, a time. BEGIN poisons, WRITTEN is answered by READY at the last."""
BEGIN, WRITTEN, READY, HASH, OFFER = range(5)


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

    def say(self, what: int, first: int = 0, end: int = 0, data: bytes = b"", at: float = 0.0) -> None:
        """Send one."""
        self._writer.write(SAY.pack(what, first, end, len(data), at) + data)

    async def hear(self) -> tuple[int, int, int, bytes, float]:
        """Receive one."""
        what, first, end, size, at = SAY.unpack(await self._reader.readexactly(SAY.size))
        return what, first, end, await self._reader.readexactly(size), at


# ---- the decode process ------------------------------------------------------------------------------------


async def decode(port: int) -> None:
    """Own the destination until the other end hangs up."""
    pool = DevicePool(layout(), BLOCKS, 0)
    transport = NvlinkTransport(KEY)
    transport.register(pool)
    await transport.start("", 0)
    line = Line(*await asyncio.open_connection("127.0.0.1", port))
    line.say(OFFER, data=transport.metadata())
    _, blocks = orders()
    verified = 0
    while True:
        try:
            what, first, end, data, _ = await line.hear()
        except asyncio.IncompleteReadError:
            break
        if what == BEGIN:
            runtime.memset(pool.address, POISON, pool.data_bytes)
            runtime.deviceSynchronize()
            verified = 0
            line.say(BEGIN)
        elif what == WRITTEN:
            wrong = await transport.mismatches(blocks, data, range(first, end))
            verified += end - first if not wrong.size else 0
            if verified == LAYERS:
                line.say(READY, at=time.monotonic())
        else:
            line.say(HASH, data=hash_of(pool, blocks))
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
        self.pairs = BlockPairs(*orders())
        self.model = Model(memory, self.pairs.sources)
        self.tags = iter(range(1, 1_000_000))

    async def round(self, sizes: tuple[int, ...]) -> dict[str, float]:
        """Compute, push, verify; seconds."""
        self.line.say(BEGIN)
        await self.line.hear()
        x = torch.randn(TOKENS, WIDTH, device="cuda", dtype=torch.bfloat16)
        torch.cuda.synchronize()
        tag, began = next(self.tags), time.monotonic()
        first, pushes = 0, []
        for size in sizes:
            layers = range(first, first := first + size)
            for index in layers:
                x = self.model.layer(x, index)
            computed = torch.cuda.Event()
            computed.record()
            pushes.append(asyncio.create_task(self._push(layers, computed, tag)))
            await asyncio.sleep(0)
        done = await asyncio.to_thread(_when, computed)
        moved = [await push for push in pushes]
        what, *_, ready = await asyncio.wait_for(self.line.hear(), LIMIT_S)
        assert what == READY
        self.line.say(HASH)
        mine = hash_of(self.pool, self.pairs.sources)
        assert (await self.line.hear())[3] == mine, "what is there is not what was computed"
        return {"exposed": ready - done, "compute": done - began, "pushed": moved[-1] - done}

    async def _push(self, layers: range, computed: torch.cuda.Event, tag: int) -> float:
        event = computed.cuda_event
        completion = await self.transport.write(self.peer, self.pairs, LIMIT_S, tag, layers, event).wait()
        assert completion.outcome is Outcome.SUCCESS, completion.reason
        pushed = time.monotonic()
        self.line.say(WRITTEN, layers.start, layers.stop, completion.checksums.astype("<u8").tobytes())
        return pushed


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
    _, _, _, offer, _ = await line.hear()
    prefill = Prefill(line, transport, await transport.connect(offer, 30), memory)
    found: dict[str, dict[str, list[float]]] = {mode: {} for mode in MODES}
    for turn in range(rounds + 2):
        for mode, sizes in MODES.items():
            seconds = await prefill.round(sizes)
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
    import cuda_bench as bench

    facts = bench.facts(f"python benchmarks/handoff_cuda.py --rounds {options.rounds}")
    found = uvloop.run(measure(options.rounds))
    made = figures(found, facts, options.rounds)
    bench.save(options.output, made)
    names = ("exposed ms", "fastest", "slowest", "pushed", "at copy speed", "compute ms")
    print(f"{'mode':>9} " + " ".join(f"{name:>{len(name)}}" for name in names))
    for mode, row in zip(found, made, strict=True):
        numbers = (row["ours"], row["fastest"], row["slowest"], row["pushed_ms"], row["ceiling"], row["compute_ms"])
        print(f"{mode:>9} " + " ".join(f"{n:{w}}" for n, w in zip(numbers, map(len, names), strict=True)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--decode"]:
        uvloop.run(decode(int(sys.argv[2])))
    else:
        main()
