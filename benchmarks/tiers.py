"""How fast KV moves between the device pool and the tiers of a CPU worker, each beside the ceiling of the same minute.

    python benchmarks/tiers.py [--gb 2.4] [--rounds 7] [--folder DIR] [--swift VENV] [--output FILE] [--only PART]

The prefix is that of Dynamo's issue 6101: 2.4 GB whose fragments are 16 KiB each (a layer's keys of one block). It is
offloaded to disk and onboarded again, straight from the pool (no host tier), with every checksum taken and checked.

The disk's ceiling is the same bytes with O_DIRECT and nothing else done, by the best of several sizes of pieces and
counts of threads, which is looked for first; its buffers are made and touched before. The ceiling of an object store is
the same client with the same objects, as many threads and no tiers: a folder, and a real S3 server on this machine.
Ours and the ceilings take turns; figures are medians of the rounds. Every byte that comes back is compared with what
was stored. `cpu_s_per_gb` is what this process computes for it: cores divided by it bound the speed, whatever the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import platform
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import obstore
import xxhash

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "runtime" / "kv" / "tiers"), str(ROOT / "tests" / "support" / "s3")]

from tier_kit import chain  # noqa: E402

from dynamoc.runtime.kv.layout import KvLayout  # noqa: E402
from dynamoc.runtime.kv.pool import HostPool  # noqa: E402
from dynamoc.runtime.kv.tiers.device import HostDevice  # noqa: E402
from dynamoc.runtime.kv.tiers.objects import Objects, open_store  # noqa: E402
from dynamoc.runtime.kv.tiers.page import page_format  # noqa: E402
from dynamoc.runtime.kv.tiers.stack import TierStack  # noqa: E402
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier  # noqa: E402

FRAGMENT = 16 * 1024
LAYOUT = KvLayout(layers=32, heads=8, head_dim=128, block_size=8, dtype="bfloat16", item_bytes=2)
"""Llama-3.1-8B in blocks of 8 tokens: 64 fragments of 16 KiB, 1 MiB a block."""
SHAPES = tuple((piece << 20, threads) for piece in (1, 4, 16) for threads in (2, 4, 8))
"""Bytes of an I/O and threads among which the disk's ceiling is looked for."""
TRIALS = 2
THREADS = 8
OFFER = 128
"""Blocks offered at a time: as much as an engine computes in a few steps."""
ROOM = 24
"""Copies in line below which there is room for as many blocks, however the pages are batched."""
LIMIT_S = 600


class Spent(NamedTuple):
    """Time on the clock, and of this process on all processors."""

    seconds: float
    cpu_s: float


class Watch:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._started, self._cpu_s = time.monotonic(), self._used()

    def stop(self) -> Spent:
        return Spent(time.monotonic() - self._started, self._used() - self._cpu_s)

    @staticmethod
    def _used() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime


class Rig:
    """A pool of random blocks above one tier."""

    def __init__(self, cache: CacheSettings, blocks: int) -> None:
        self.pool = HostPool(LAYOUT, blocks)
        rng = np.random.default_rng(6101)
        self.array = np.frombuffer(self.pool.data, np.uint8).reshape(blocks, -1)
        for block in range(blocks):
            self.array[block] = rng.integers(0, 256, LAYOUT.block_bytes, np.uint8)
        self.sums = [xxhash.xxh3_64_intdigest(row) for row in self.array]
        self.device = HostDevice(self.pool, page_format(LAYOUT, "benchmark"))
        self.changed = threading.Condition()
        self.stack = TierStack(self.device, cache, lambda _blocks: None, self._settled)
        self.keys = chain("6101", blocks)
        self.blocks = list(range(blocks))

    @property
    def store(self) -> Any:
        return self.stack.stores[0]

    def offload(self) -> Spent:
        """Until every page is on its tier."""
        self.store.ledger.clear()
        watch = Watch()
        left = list(zip(self.keys, self.blocks, strict=True))
        while left:
            # The line of stores is short on purpose: whoever has more to store than it takes offers it later.
            left = left[len(self.stack.offloader.offer(left[:OFFER])) :]
            self._wait(lambda: self.store.lane.in_flight <= ROOM)
        self._wait(self.stack.idle)
        spent = watch.stop()
        assert len(self.store.ledger) == len(self.keys), "not everything was stored"
        return spent

    def onboard(self) -> Spent:
        """Until every block is back, which is then compared."""
        self.array[:] = 0xAA
        over = threading.Event()
        watch = Watch()
        found = self.stack.onboarder.look_up(self.keys, None)
        load = self.stack.onboarder.load(found, self.blocks, lambda _load: over.set())
        assert load is not None
        assert over.wait(LIMIT_S)
        spent = watch.stop()
        assert load.prefix == len(self.keys), "not everything came back"
        wrong = sum(xxhash.xxh3_64_intdigest(row) != want for row, want in zip(self.array, self.sums, strict=True))
        assert not wrong, f"{wrong} blocks came back wrong"
        return spent

    def _settled(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(is_so, LIMIT_S)

    def close(self) -> None:
        self.stack.close()
        self.device.close()
        del self.array
        self.pool.close()


def in_threads(count: int, threads: int, job: Callable[[int, int], object]) -> Spent:
    """`job(number, thread)` for each number below `count`, dealt to the threads before the clock starts."""

    def work(thread: int) -> None:
        for number in range(thread, count, threads):
            job(number, thread)

    with ThreadPoolExecutor(threads) as pool:
        watch = Watch()
        for future in [pool.submit(work, thread) for thread in range(threads)]:
            future.result()
        return watch.stop()


class RawDisk:
    """The ceiling: large pieces, O_DIRECT, memory that is never looked at."""

    def __init__(self, path: Path, size: int) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        largest, threads = (max(values) for values in zip(*SHAPES, strict=True))
        self.size = size // largest * largest
        os.posix_fallocate(self.descriptor, 0, self.size)
        self.buffers = [mmap.mmap(-1, largest) for _ in range(threads)]
        for buffer in self.buffers:
            buffer[:] = os.urandom(largest)
        self._run(os.pwritev, *SHAPES[0])  # the first time allocates
        self.shapes = {operation: self._best(operation) for operation in (os.pwritev, os.preadv)}

    def write(self) -> Spent:
        return self._run(os.pwritev, *self.shapes[os.pwritev])

    def read(self) -> Spent:
        return self._run(os.preadv, *self.shapes[os.preadv])

    def _best(self, operation: Callable[..., int]) -> tuple[int, int]:
        trials = [(self._run(operation, *shape).seconds, shape) for _ in range(TRIALS) for shape in SHAPES]
        return min(trials)[1]

    def _run(self, operation: Callable[..., int], piece: int, threads: int) -> Spent:
        views = [memoryview(buffer)[:piece] for buffer in self.buffers[:threads]]

        def move(number: int, thread: int) -> None:
            assert operation(self.descriptor, [views[thread]], number * piece) == piece

        return in_threads(self.size // piece, threads, move)


def compare(
    rounds: int, size: int, pairs: dict[str, tuple[Callable[[], Spent], Callable[[], Spent]]], raw_size: int
) -> dict[str, Any]:
    """Medians in bytes per second of ours and of the ceiling, and their quotient."""
    spent: dict[str, list[Spent]] = {f"{side} {name}": [] for name in pairs for side in ("ours", "ceiling")}
    for number in range(rounds):
        for name, (ours, ceiling) in pairs.items():
            order = (("ours", ours), ("ceiling", ceiling))
            for side, run in order if number % 2 else reversed(order):
                spent[f"{side} {name}"].append(run())
    result: dict[str, Any] = {}
    for name in pairs:
        speeds: dict[str, list[float]] = {}
        result[name] = {}
        for side, moved in (("ours", size), ("ceiling", raw_size)):
            gb, found = moved / 1e9, spent[f"{side} {name}"]
            speeds[side] = sorted(gb / one.seconds for one in found)
            result[name] |= {
                f"{side}_gb_per_s": round(statistics.median(speeds[side]), 3),
                f"{side}_min_max": [round(speeds[side][0], 3), round(speeds[side][-1], 3)],
                f"{side}_cpu_s_per_gb": round(statistics.median(one.cpu_s / gb for one in found), 3),
            }
        share = statistics.median(speeds["ours"]) / statistics.median(speeds["ceiling"])
        result[name] |= {"share_of_ceiling": round(share, 3)}
    return result


def disk(folder: Path, size: int, rounds: int) -> dict[str, Any]:
    blocks = int(size // LAYOUT.block_bytes)
    frame = page_format(LAYOUT, "benchmark").frame_bytes
    rig = Rig(CacheSettings(disk=DiskTier(str(folder / "tier"), blocks * 5 // 4 * frame), admission="all"), blocks)
    raw = RawDisk(folder / "raw", size)
    rig.offload()  # the first time allocates
    try:
        pairs = {"offload": (rig.offload, raw.write), "onboard": (rig.onboard, raw.read)}
        return compare(rounds, blocks * LAYOUT.block_bytes, pairs, raw.size) | {
            "bytes": blocks * LAYOUT.block_bytes,
            "fragments": blocks * LAYOUT.block_bytes // FRAGMENT,
            "blocks": blocks,
            "o_direct": rig.store.is_direct,
            "ceiling_piece_mib_and_threads": {
                name: [shape[0] >> 20, shape[1]] for name, shape in zip(pairs, raw.shapes.values(), strict=True)
            },
        }
    finally:
        rig.close()
        os.close(raw.descriptor)


def objects(url: str, size: int, rounds: int) -> dict[str, Any]:
    blocks = int(size // LAYOUT.block_bytes)
    frame = page_format(LAYOUT, "benchmark").frame_bytes
    client = open_store(url, 60)
    # As many as our pool has, or 64: one body alone would stay in the processor's cache.
    bodies = [memoryview(bytearray(os.urandom(frame))) for _ in range(min(blocks, 64))]
    sinks = [memoryview(bytearray(frame)) for _ in range(THREADS)]

    def clear() -> None:
        for batch in obstore.list(client):
            obstore.delete(client, [found["path"] for found in batch])

    def put_one(number: int, _thread: int) -> None:
        body = bodies[number % len(bodies)]
        obstore.put(client, f"raw/{number}", body, mode="create", use_multipart=False)

    def get_one(number: int, thread: int) -> None:
        sinks[thread][:] = memoryview(obstore.get(client, f"raw/{number}").bytes())

    def put() -> Spent:
        clear()
        return in_threads(blocks, THREADS, put_one)

    rig = Rig(CacheSettings(object=ObjectTier(url), admission="all"), blocks)
    assert isinstance(rig.store, Objects)

    def offload() -> Spent:
        clear()
        return rig.offload()

    def put_then_get() -> Spent:
        put()
        return in_threads(blocks, THREADS, get_one)

    def offload_then_onboard() -> Spent:
        offload()
        return rig.onboard()

    try:
        pairs = {"offload": (offload, put), "onboard": (offload_then_onboard, put_then_get)}
        return compare(rounds, blocks * LAYOUT.block_bytes, pairs, blocks * frame) | {"blocks": blocks}
    finally:
        rig.close()


@contextlib.contextmanager
def s3(venv: str | None, folder: Path) -> Iterator[str | None]:
    """The URL of a fresh bucket on a Swift of our own, if there is one to start."""
    if venv is not None:
        os.environ["DYNAMOC_TEST_SWIFT_VENV"] = venv
    import httpx
    from s3_signing import signed
    from swift_server import is_installed, swift

    if not is_installed():
        yield None
        return
    with swift(folder / "swift", workers=2) as server:
        os.environ.update(server.environment)
        bucket = f"{server.environment['AWS_ENDPOINT_URL']}/bench"
        httpx.put(**signed("PUT", bucket, server.environment)).raise_for_status()
        yield "s3://bench/pages"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gb", type=float, default=2.4, help="size of the prefix on disk")
    parser.add_argument("--file-mib", type=int, default=1024, help="size of the prefix in a folder of objects")
    parser.add_argument("--s3-mib", type=int, default=64, help="and on an S3 server")
    parser.add_argument("--only", choices=("disk", "file", "s3"), help="measure only this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--swift", help="virtual environment with Swift in it")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load_at_start": os.getloadavg()[0]},
        "rounds": options.rounds,
    }

    def keep(name: str, measured: dict[str, Any]) -> None:
        result[name] = measured
        print(json.dumps({name: measured}, indent=2), flush=True)
        if options.output is not None:
            options.output.write_text(json.dumps(result, indent=2) + "\n")

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.only in (None, "disk"):
            keep("disk", disk(folder, int(options.gb * 1e9), options.rounds))
        if options.only in (None, "file"):
            keep("object_file", objects(f"file://{folder}/objects", options.file_mib << 20, options.rounds))
        if options.only in (None, "s3"):
            with s3(options.swift, folder) as url:
                if url is not None:
                    keep("object_s3_swift", objects(url, options.s3_mib << 20, options.rounds))


if __name__ == "__main__":
    main()
