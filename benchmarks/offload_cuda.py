"""How fast KV blocks get between a GPU's pool and page-locked host memory: our paths, the driver's batch, a loop.

    python benchmarks/offload_cuda.py [--mib 1024] [--rounds 11] [--output FILE]

Every block goes onto a random permutation of blocks on the other side; the host side is a shared-memory file that is
page-locked where it lies. Times are the caller's: from the call until the completion is seen. Before each copy the
destination is poisoned, after it every byte is compared. The ceiling is one plain copy of all bytes between the same
memories; ours, peers and ceiling take turns. `staged` puts the pairs in the order of their places on the host, meets
them in device memory and lets the copy engine move what is adjacent there; `gaps` is the same where only every second
place of the host, chosen at random, takes part; `kernel` lets a kernel reach over the link. Peers: one
`cuMemcpyBatchAsync` call for 4,096 blocks at a time, and one `cudaMemcpyAsync` call a block. When both ways are busy,
each has a thread of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cuda_bench as bench
import numpy as np
from cupy.cuda import runtime

from dynamoc.runtime.kv.cuda.batch import SourceOrder, copy_batch
from dynamoc.runtime.kv.cuda.copier import Copier
from dynamoc.runtime.kv.cuda.pool import PinnedPool
from dynamoc.runtime.kv.cuda.staged import StagedCopier
from dynamoc.runtime.kv.pool import HostPool

CTAS = (8, 32)
USUAL = 32
TARGET, TARGET_BOTH = 52.0, 95.0
"""GB/s."""
SEED = 13
LOOP_ROUNDS = 2
Orders = tuple[np.ndarray, np.ndarray]


class Rig:
    """Two pools on the device, two in host memory: one pair a direction."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.data = bench.random_bytes(total, SEED)
        self.device = {"offload": bench.device_pool(total), "onboard": bench.device_pool(total)}
        self.host = {way: self._pinned(total) for way in self.device}
        self.expected, self.scratch = bench.device_pool(total), bench.device_pool(total)
        for pool in (self.expected, self.device["offload"]):
            bench.upload(pool, self.data)
        ctypes.memmove(self.host["onboard"].address, self.data.ctypes.data, total)
        self.copiers = {ctas: {way: Copier(0, ctas) for way in self.device} for ctas in CTAS}
        self.staged_copiers = {way: StagedCopier(0) for way in self.device}
        self.streams = {way: bench.Stream() for way in self.device}
        self.threads = ThreadPoolExecutor(len(self.device))

    def ends(self, way: str) -> tuple[int, int]:
        """Addresses of source and destination."""
        device, host = self.device[way].address, self.host[way].address
        return (device, host) if way == "offload" else (host, device)

    def poison(self, way: str) -> None:
        """Nothing of an earlier copy is left at the destination."""
        runtime.memset(self.scratch.address, bench.POISON, self.total)
        runtime.memcpy(self.ends(way)[1], self.scratch.address, self.total, 4)

    def check(self, way: str, block: int, orders: Orders) -> None:
        """Every byte is where it belongs."""
        runtime.memcpy(self.scratch.address, self.ends(way)[1], self.total, 4)
        wrong = bench.wrong_words(self.scratch.address, orders[1], self.expected.address, orders[0], block)
        if wrong:
            raise SystemExit(f"{wrong} wrong words after {way} of {block} B blocks")

    def kernel(self, ways: tuple[str, ...], block: int, orders: Orders, ctas: int) -> None:
        """A kernel that reaches over the link."""

        def one(way: str) -> None:
            places = [bench.runs(end, order, block) for end, order in zip(self.ends(way), orders, strict=True)]
            self.copiers[ctas][way].copy(*places, block).wait(bench.DEADLINE_S)

        self._each(one, ways)

    def staged(self, ways: tuple[str, ...], block: int, orders: Orders) -> None:
        """A kernel within the device, the copy engine over the link."""

        def one(way: str) -> None:
            places = [bench.runs(end, order, block) for end, order in zip(self.ends(way), orders, strict=True)]
            copier = self.staged_copiers[way]
            start = copier.offload if way == "offload" else copier.onboard
            start(*places, block).wait(bench.DEADLINE_S)

        self._each(one, ways)

    def plain(self, ways: tuple[str, ...]) -> None:
        """The ceiling."""
        for way in ways:
            source, destination = self.ends(way)
            self.streams[way].copy(destination, source, self.total)
        for way in ways:
            self.streams[way].wait()

    def batched(self, ways: tuple[str, ...], block: int, orders: Orders) -> None:
        """The driver's batch; host memory that does not change meanwhile may be read in any order."""

        def one(way: str) -> None:
            stream, size = self.streams[way], np.uint64(block)
            from_, to = (order * size + np.uint64(end) for order, end in zip(orders, self.ends(way), strict=True))
            when = SourceOrder.STREAM if way == "offload" else SourceOrder.ANY
            copy_batch(0, to, from_, np.full(to.size, size), stream.stream, when)
            stream.wait()

        self._each(one, ways)

    def loop(self, ways: tuple[str, ...], block: int, orders: Orders) -> None:
        """One call a block."""
        (way,) = ways
        (sources, destinations), (source, destination) = orders, self.ends(way)
        stream = self.streams[way]
        for at, to in zip(sources.tolist(), destinations.tolist(), strict=True):
            stream.copy(destination + to * block, source + at * block, block)
        stream.wait()

    def _each(self, one: Callable[[str], None], ways: tuple[str, ...]) -> None:
        if len(ways) == 1:
            one(ways[0])
        else:
            list(self.threads.map(one, ways))

    def _pinned(self, total: int) -> PinnedPool:
        return PinnedPool(HostPool(bench.layout_of(bench.BLOCK_BYTES[0]), total // bench.BLOCK_BYTES[0]))


WAYS: dict[str, tuple[str, ...]] = {"offload": ("offload",), "onboard": ("onboard",), "both": ("offload", "onboard")}


@functools.cache
def with_gaps(total: int, block: int) -> Orders:
    """Half of the blocks, and half of the places, chosen at random."""
    sources, destinations = bench.shuffled(total, block)
    return sources[: sources.size // 2], destinations[: destinations.size // 2]


def timed(
    rig: Rig, ways: tuple[str, ...], block: int, body: Callable[..., None], orders: Orders | None = None, *words: int
) -> float:
    """Seconds of a copy whose every byte was checked."""
    orders = orders or bench.shuffled(rig.total, block)
    for way in ways:
        rig.poison(way)
    runtime.deviceSynchronize()
    began = time.perf_counter()
    body(ways, block, orders, *words)
    took = time.perf_counter() - began
    for way in ways:
        rig.check(way, block, orders)
    return took


def measure(rig: Rig, ways: tuple[str, ...], block: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of ours, the peers and the ceiling, which take turns."""
    took: dict[str, list[float]] = {"staged": [], "gaps": [], "kernel": [], "ceiling": [], "batch": [], "loop": []}
    for turn in range(rounds + 1):
        times = {
            "staged": timed(rig, ways, block, rig.staged),
            "gaps": timed(rig, ways, block, rig.staged, with_gaps(rig.total, block)),
            "kernel": timed(rig, ways, block, rig.kernel, None, USUAL),
            "batch": timed(rig, ways, block, rig.batched),
        }
        if len(ways) == 1 and turn <= LOOP_ROUNDS:
            times["loop"] = timed(rig, ways, block, rig.loop)
        began = time.perf_counter()
        rig.plain(ways)
        times["ceiling"] = time.perf_counter() - began
        for what, seconds in times.items() if turn else ():  # the first round warms up
            took[what].append(seconds)
    return took


def figures(rig: Rig, name: str, block: int, rounds: int) -> list[dict[str, Any]]:
    """One way at one block size."""
    ways = WAYS[name]
    moved = rig.total * len(ways)
    took = measure(rig, ways, block, rounds)
    bytes_of = {what: moved // 2 if what == "gaps" else moved for what in took}
    speed = {what: bench.rate(bytes_of[what], times) for what, times in took.items() if times}
    peers = {"cuMemcpyBatchAsync": speed["batch"], "cudaMemcpyAsync loop": speed.get("loop")}
    made = []
    for what, how in (
        ("staged", "shuffled on both sides, staged"),
        ("gaps", "in every second place of the host at random, staged"),
        ("kernel", "shuffled on both sides, kernel"),
    ):
        made.append(
            {
                "figure": f"{name} over PCIe, {block} B blocks {how}",
                "ours": speed[what],
                "ceiling": speed["ceiling"],
                "peer": {peer: value for peer, value in peers.items() if value is not None},
                "target": (TARGET_BOTH if name == "both" else TARGET) if what == "staged" else None,
                "unit": "GB/s",
                "ratio": round(speed[what] / speed["ceiling"], 3),
                "n": rounds,
                "slowest": round(bytes_of[what] / max(took[what]) / 1e9, 1),
            }
        )
    return made


def main() -> None:
    """Measure, print, write `results/offload_cuda.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "offload_cuda.json")
    options = parser.parse_args()
    facts = bench.facts(f"python benchmarks/offload_cuda.py --mib {options.mib} --rounds {options.rounds}")
    rig = Rig(options.mib << 20)
    made: list[dict[str, Any]] = []
    print("way, block bytes, [staged, staged with gaps, kernel, ceiling, peers], GB/s")
    for block in bench.BLOCK_BYTES:
        for name in WAYS:
            found = figures(rig, name, block, options.rounds)
            made += found
            shown = [*(figure["ours"] for figure in found), found[0]["ceiling"], *found[0]["peer"].values()]
            print(f"{name:8} {block:9,} {json.dumps(shown)}", flush=True)
            bench.save(options.output, [{**figure, **facts} for figure in made])


if __name__ == "__main__":
    main()
