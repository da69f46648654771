"""How fast KV moves between a GPU's pool and the tiers below it, whole path: places, copies, checksums, books.

    python benchmarks/tiers_cuda.py [--mib 1024] [--rounds 11] [--disk-gb 2.4] [--folder DIR] [--output FILE]

Llama-3.1-8B in blocks of 16 tokens (2 MiB) and of 8 (1 MiB). A prompt's blocks go to page-locked host memory and come
back onto shuffled blocks, with every page's checksum taken and checked. The ceiling is one plain copy of as many bytes
between the pool and the same kind of memory. `device` is the copy alone, by the way that the host was measured to do
soonest, no checksums.
With `--disk-gb`, the same through a disk without a host tier; its ceiling is that of tiers.py.
Before each way back the pool is poisoned; after it every byte is compared. Ours and ceilings take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cuda_bench as bench
import cupy
import numpy as np
from cupy.cuda import runtime
from raw_disk import RawDisk
from tiers import LIMIT_S, OFFER, ROOM, chain

from dynamoc.runtime.doctor.links import known_links
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.tiers.cuda_device import CudaDevice
from dynamoc.runtime.kv.tiers.frames import Frames
from dynamoc.runtime.kv.tiers.page import page_format, page_of
from dynamoc.runtime.kv.tiers.stack import TierStack
from dynamoc.runtime.kv.tiers.ways import Ways
from dynamoc.runtime.kv.transfer.measured import Way
from dynamoc.runtime.manifest import CacheSettings, DiskTier

BLOCK_SIZES = (16, 8)
LAYERS, HEADS, HEAD_DIM = 32, 8, 128


class Rig:
    """A pool of random blocks on the GPU, the tiers below it, and memory for the ceiling."""

    def __init__(self, block_size: int, total: int, folder: Path | None) -> None:
        self.layout = KvLayout(LAYERS, HEADS, HEAD_DIM, block_size, "bfloat16", 2)
        self.blocks = total // self.layout.block_bytes
        self.total = self.blocks * self.layout.block_bytes
        self.pool = DevicePool(self.layout, self.blocks, 0)
        random = cupy.random.default_rng(block_size)
        self.expected = random.integers(0, 2**63, self.total // 8, cupy.int64)
        format_ = page_format(self.layout, "benchmark")
        self.device = CudaDevice(self.pool, format_, Ways(known_links(), Way.BATCH))
        size = self.blocks * 5 // 4 * format_.frame_bytes
        disk = None if folder is None else DiskTier(str(folder), size)
        tiers = CacheSettings(host_bytes=None if disk else size, disk=disk, admission="all")
        began = time.monotonic()
        self.stack = TierStack(self.device, tiers, lambda _blocks: None, lambda: None)
        self.open_s = time.monotonic() - began
        self.tier: Any = self.stack.host if folder is None else self.stack.stores[0]
        self.keys = chain("gpu", self.blocks)
        self.order = np.random.default_rng(5).permutation(self.blocks).tolist()
        self.plain = Frames(1, self.total, self.device.pin) if folder is None else None
        self.pages = Frames(self.blocks, format_.frame_bytes, self.device.pin) if folder is None else None

    def offload(self) -> float:
        """Seconds until the whole prompt is in the tier."""
        self.tier.ledger.clear()
        runtime.memcpy(self.pool.address, self.expected.data.ptr, self.total, 3)
        began = time.monotonic()
        left = list(zip(self.keys, range(self.blocks), strict=True))
        while left:
            left = left[len(self.stack.offloader.offer(left[:OFFER])) :]
            while self.tier.lane.in_flight > ROOM:
                time.sleep(0.0002)
        while not self.stack.idle():
            time.sleep(0.0002)
        seconds = time.monotonic() - began
        assert len(self.tier.ledger) == self.blocks, "not everything was stored"
        return seconds

    def onboard(self) -> float:
        """Seconds until every block is back, in another order; then they are compared."""
        runtime.memset(self.pool.address, bench.POISON, self.total)
        runtime.deviceSynchronize()
        over = threading.Event()
        began = time.monotonic()
        found = self.stack.onboarder.look_up(self.keys, None)
        load = self.stack.onboarder.load(found, self.order, lambda _load: over.set())
        assert load is not None
        assert over.wait(LIMIT_S)
        seconds = time.monotonic() - began
        assert load.prefix == self.blocks, "not everything came back"
        memory = cupy.cuda.UnownedMemory(self.pool.address, self.total, self.pool)
        got = cupy.ndarray(self.total // 8, cupy.int64, cupy.cuda.MemoryPointer(memory, 0)).reshape(self.blocks, -1)
        want = self.expected.reshape(self.blocks, -1)
        wrong = int((got[cupy.asarray(self.order)] != want).sum())
        assert not wrong, f"{wrong} words came back wrong"
        return seconds

    def copy(self, *, up: bool) -> float:
        """One plain copy of all bytes."""
        assert self.plain is not None
        host = np.frombuffer(self.plain.view(0), np.uint8).ctypes.data
        ends = (self.pool.address, host) if up else (host, self.pool.address)
        runtime.deviceSynchronize()
        began = time.monotonic()
        runtime.memcpyAsync(*ends, self.total, 4, 0)
        runtime.deviceSynchronize()
        return time.monotonic() - began

    def pages_alone(self, *, up: bool) -> float:
        """Blocks to pages and back without books and checksums, in batches, by the threads the tier would use."""
        assert self.pages is not None
        step = self.device.batch_bytes // self.layout.block_bytes
        views = [page_of(self.device.format, self.pages.view(number)) for number in range(self.blocks)]

        def some(start: int) -> None:
            part = slice(start, start + step)
            if up:
                self.device.write(views[part], self.order[part])
            else:
                self.device.read(self.order[part], views[part])

        jobs = range(0, self.blocks, step)
        with ThreadPoolExecutor(self.device.threads) as threads:
            began = time.monotonic()
            for done in [threads.submit(some, start) for start in jobs]:
                done.result()
            return time.monotonic() - began

    def close(self) -> None:
        self.stack.close()
        for frames in (self.plain, self.pages):
            if frames is not None:
                frames.close()
        self.device.close()
        self.pool.close()


def figure(size: int, times: list[float]) -> dict[str, Any]:
    """GB/s."""
    rates = sorted(size / seconds / 1e9 for seconds in times)
    return {"gb_per_s": round(statistics.median(rates), 2), "min_max": [round(rates[0], 2), round(rates[-1], 2)]}


def take_turns(rounds: int, total: int, ways: dict[str, Callable[[], float]]) -> dict[str, Any]:
    """Medians; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            times[name].append(way())
    return {name: figure(total, seconds[1:]) for name, seconds in times.items()}


def host(block_size: int, total: int, rounds: int) -> dict[str, Any]:
    rig = Rig(block_size, total, None)
    try:
        ways = {
            "offload": rig.offload,
            "offload, device": lambda: rig.pages_alone(up=False),
            "offload, ceiling": lambda: rig.copy(up=False),
            "onboard": rig.onboard,
            "onboard, device": lambda: rig.pages_alone(up=True),
            "onboard, ceiling": lambda: rig.copy(up=True),
        }
        # What is onboarded is what was offloaded in the same round.
        facts = {"tier": "G2", "block_bytes": rig.layout.block_bytes, "blocks": rig.blocks, "open_s": rig.open_s}
        return facts | take_turns(rounds, rig.total, ways)
    finally:
        rig.close()


def disk(folder: Path, total: int, rounds: int) -> dict[str, Any]:
    rig = Rig(8, total, folder / "tier")
    raw = RawDisk(folder / "raw", rig.total)
    try:
        ways = {
            "offload": rig.offload,
            "offload, ceiling": lambda: raw.write().seconds,
            "onboard": rig.onboard,
            "onboard, ceiling": lambda: raw.read().seconds,
            "onboard, ceiling into buffers used again": lambda: raw.read_again().seconds,
        }
        facts = {
            "tier": "G3",
            "block_bytes": rig.layout.block_bytes,
            "blocks": rig.blocks,
            "o_direct": rig.tier.is_direct,
        }
        return facts | take_turns(rounds, rig.total, ways) | {"ceiling_bytes_and_threads": raw.shapes}
    finally:
        rig.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--disk-gb", type=float, default=0.0)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    facts = bench.facts(" ".join(["python", *sys.argv]))
    figures: list[dict[str, Any]] = []
    for block_size in BLOCK_SIZES:
        figures.append(facts | host(block_size, options.mib << 20, options.rounds))
        print(json.dumps(figures[-1]), flush=True)
        bench.save(options.output, figures)
    if options.disk_gb:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures.append(facts | disk(Path(folder), int(options.disk_gb * 1e9), options.rounds))
        print(json.dumps(figures[-1]), flush=True)
        bench.save(options.output, figures)


if __name__ == "__main__":
    main()
