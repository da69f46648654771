"""How fast KV blocks get between a GPU's pool and page-locked host memory: our kernel, the driver's batch, a loop.

    python benchmarks/offload_cuda.py [--mib 1024] [--rounds 11] [--output FILE]

Every block goes onto a random permutation of blocks on the other side; the host side is a shared-memory file that is
page-locked where it lies. Times are the caller's: from the call until the completion is seen. Before each copy the
destination is poisoned, after it every byte is compared. The ceiling is one plain copy of all bytes between the same
memories; ours, peers and ceiling take turns. Peers: one `cuMemcpyBatchAsync` call for 4,096 blocks at a time, and one
`cudaMemcpyAsync` call a block. `staged` is the same with the host's blocks in one range: gathered or scattered on the
device, moved by the copy engine. When both
ways are busy, each has a thread of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cuda_bench as bench
import numpy as np
from cupy.cuda import runtime

from dynamoc.runtime.kv.cuda.copier import Copier
from dynamoc.runtime.kv.cuda.pool import PinnedPool
from dynamoc.runtime.kv.cuda.staged import StagedCopier
from dynamoc.runtime.kv.pool import HostPool

CTAS = (8, 16, 32, 64, 132)
USUAL = 32
BATCH = 4096
SEED = 13
LOOP_ROUNDS = 3


class _Attributes(ctypes.Structure):
    """CUmemcpyAttributes: how the source may be read, two location hints, flags."""

    _fields_ = (("order", ctypes.c_int), ("hints", ctypes.c_int * 4), ("flags", ctypes.c_uint))


class BatchCopy:
    """`cuMemcpyBatchAsync` as CUDA 13 declares it."""

    def __init__(self) -> None:
        driver = ctypes.CDLL("libcuda.so.1")
        found, status = ctypes.c_void_p(), ctypes.c_int()
        failed = driver.cuGetProcAddress_v2(
            b"cuMemcpyBatchAsync", ctypes.byref(found), 13000, ctypes.c_uint64(0), ctypes.byref(status)
        )
        if failed or not found.value:
            raise SystemExit(f"the driver has no cuMemcpyBatchAsync ({failed}, {status.value})")
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        kind = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, size, pointer, pointer, size, pointer)
        self._call = kind(found.value)

    def __call__(self, destinations: np.ndarray, sources: np.ndarray, block: int, stream: int, order: int) -> None:
        sizes = np.full(destinations.size, block, np.uint64)
        attributes, first = _Attributes(order=order), ctypes.c_size_t(0)
        for start in range(0, destinations.size, BATCH):
            rows = slice(start, start + BATCH)
            lists = (destinations[rows], sources[rows], sizes[rows])
            count = lists[0].size
            words = (*(part.ctypes.data for part in lists), count, ctypes.byref(attributes), ctypes.byref(first), 1)
            if failed := self._call(*words, stream):
                raise SystemExit(f"cuMemcpyBatchAsync failed: {failed}")


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
        self.batch = BatchCopy()
        self.threads = ThreadPoolExecutor(len(self.device))

    def ends(self, way: str) -> tuple[int, int]:
        """Addresses of source and destination."""
        device, host = self.device[way].address, self.host[way].address
        return (device, host) if way == "offload" else (host, device)

    def poison(self, way: str) -> None:
        """Nothing of an earlier copy is left at the destination."""
        runtime.memset(self.scratch.address, bench.POISON, self.total)
        runtime.memcpy(self.ends(way)[1], self.scratch.address, self.total, 4)

    def check(self, way: str, block: int, *, host_in_order: bool) -> None:
        """Every byte is where it belongs."""
        runtime.memcpy(self.scratch.address, self.ends(way)[1], self.total, 4)
        sources, destinations = bench.shuffled(self.total, block)
        if host_in_order:
            in_order = np.arange(sources.size, dtype=np.uint64)
            sources, destinations = (sources, in_order) if way == "offload" else (in_order, destinations)
        wrong = bench.wrong_words(self.scratch.address, destinations, self.expected.address, sources, block)
        if wrong:
            raise SystemExit(f"{wrong} wrong words after {way} of {block} B blocks")

    def kernel(self, ways: tuple[str, ...], block: int, ctas: int) -> None:
        """Ours."""
        sources, destinations = bench.shuffled(self.total, block)

        def one(way: str) -> None:
            source, destination = self.ends(way)
            places = (bench.runs(source, sources, block), bench.runs(destination, destinations, block))
            self.copiers[ctas][way].copy(*places, block).wait(bench.DEADLINE_S)

        self._each(one, ways)

    def staged(self, ways: tuple[str, ...], block: int) -> None:
        """Ours where the host's blocks lie in one range."""
        sources, destinations = bench.shuffled(self.total, block)

        def one(way: str) -> None:
            device, host, copier = self.device[way].address, self.host[way].address, self.staged_copiers[way]
            if way == "offload":
                copier.offload(bench.runs(device, sources, block), host, block).wait(bench.DEADLINE_S)
            else:
                copier.onboard(host, bench.runs(device, destinations, block), block).wait(bench.DEADLINE_S)

        self._each(one, ways)

    def plain(self, ways: tuple[str, ...]) -> None:
        """The ceiling."""
        for way in ways:
            source, destination = self.ends(way)
            self.streams[way].copy(destination, source, self.total)
        for way in ways:
            self.streams[way].wait()

    def batched(self, ways: tuple[str, ...], block: int) -> None:
        """The driver's batch; host memory that does not change meanwhile may be read in any order."""
        sources, destinations = bench.shuffled(self.total, block)
        for way in ways:
            source, destination = (np.uint64(end) for end in self.ends(way))
            size, order = np.uint64(block), 1 if way == "offload" else 3
            self.batch(
                destinations * size + destination, sources * size + source, block, self.streams[way].stream, order
            )
        for way in ways:
            self.streams[way].wait()

    def loop(self, ways: tuple[str, ...], block: int) -> None:
        """One call a block."""
        (way,) = ways
        sources, destinations = bench.shuffled(self.total, block)
        source, destination = self.ends(way)
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


def timed(rig: Rig, ways: tuple[str, ...], block: int, body: Callable[..., None], *words: int) -> float:
    """Seconds of a copy whose every byte was checked."""
    for way in ways:
        rig.poison(way)
    runtime.deviceSynchronize()
    began = time.perf_counter()
    body(ways, block, *words)
    took = time.perf_counter() - began
    for way in ways:
        rig.check(way, block, host_in_order=body == rig.staged)
    return took


def measure(rig: Rig, ways: tuple[str, ...], block: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of ours, the peers and the ceiling, which take turns."""
    took: dict[str, list[float]] = {"ours": [], "staged": [], "ceiling": [], "batch": [], "loop": []}
    for turn in range(rounds + 1):
        times = {
            "ours": timed(rig, ways, block, rig.kernel, USUAL),
            "staged": timed(rig, ways, block, rig.staged),
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
    """One way at one block size: blocks shuffled on both sides, and in one range of the host."""
    ways = WAYS[name]
    moved = rig.total * len(ways)
    took = measure(rig, ways, block, rounds)
    speed = {what: bench.rate(moved, times) for what, times in took.items() if times}
    by_ctas = {}
    for ctas in CTAS:
        times = [timed(rig, ways, block, rig.kernel, ctas) for _ in range(4)]
        by_ctas[str(ctas)] = bench.rate(moved, times[1:])
    peers = {"cuMemcpyBatchAsync": speed["batch"], "cudaMemcpyAsync loop": speed.get("loop")}
    made = []
    for what, how, more in (
        ("ours", "shuffled on both sides, kernel", {"by_ctas": by_ctas}),
        ("staged", "shuffled on the device, in one range on the host, staged", {}),
    ):
        made.append(
            {
                "figure": f"{name} over PCIe, {block} B blocks {how}",
                "ours": speed[what],
                "ceiling": speed["ceiling"],
                "peer": {peer: value for peer, value in peers.items() if value is not None},
                "unit": "GB/s",
                "ratio": round(speed[what] / speed["ceiling"], 3),
                "n": rounds,
                "slowest": round(moved / max(took[what]) / 1e9, 1),
                **more,
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
    print("way, block bytes, [kernel, staged, ceiling, peers, kernel by CTAs], GB/s")
    for block in bench.BLOCK_BYTES:
        for name in WAYS:
            kernel, staged = figures(rig, name, block, options.rounds)
            made += [kernel, staged]
            shown = [kernel["ours"], staged["ours"], kernel["ceiling"], kernel["peer"], kernel["by_ctas"]]
            print(f"{name:8} {block:9,} {json.dumps(shown)}", flush=True)
            bench.save(options.output, [{**found, **facts} for found in made])


if __name__ == "__main__":
    main()
