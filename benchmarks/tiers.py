"""How fast KV moves between the device pool and the tiers of a CPU worker, each beside the ceiling of the same minute.

    python benchmarks/tiers.py [--gb 2.4] [--rounds 7] [--folder DIR] [--swift VENV] [--output FILE]

The prefix is that of Dynamo's issue 6101: 2.4 GB whose fragments are 16 KiB each (a layer's keys of one block). It is
offloaded to disk and onboarded again, straight from the pool (no host tier), through the bounce buffers, with every
checksum taken and checked. The ceiling is the same bytes written and read in 4 MiB pieces with O_DIRECT by eight
threads, and nothing else done. The object store is a real S3 server on this machine; its ceiling is the same client
with the same objects and threads, and no tiers. Ours and the ceilings take turns; figures are medians of the rounds.
Every byte that comes back is compared with what was stored.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
from dynamoc.runtime.kv.tiers.stack import STAGING_BATCHES, TierStack  # noqa: E402
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier  # noqa: E402

FRAGMENT = 16 * 1024
LAYOUT = KvLayout(layers=32, heads=8, head_dim=128, block_size=8, dtype="bfloat16", item_bytes=2)
"""Llama-3.1-8B in blocks of 8 tokens: 64 fragments of 16 KiB, 1 MiB a block."""
PIECE = 4 << 20
THREADS = 8
OFFER = 128
"""Blocks offered at a time: as much as an engine computes in a few steps."""
ROOM = 24
"""Copies in line below which there is room for as many blocks, however the pages are batched."""
LIMIT_S = 600


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
        self.stack = TierStack(self.device, cache, lambda _blocks: None, lambda: None)
        self.keys = chain("6101", blocks)
        self.blocks = list(range(blocks))

    @property
    def store(self) -> Any:
        return self.stack.stores[0]

    def offload(self) -> float:
        """Seconds until every page is on its tier."""
        self.store.ledger.clear()
        started = time.monotonic()
        left = list(zip(self.keys, self.blocks, strict=True))
        while left:
            # The line of stores is short on purpose: whoever has more to store than it takes offers it later.
            left = left[len(self.stack.offloader.offer(left[:OFFER])) :]
            while self.store.lane.in_flight > ROOM:
                time.sleep(0.0005)
        while not self.stack.idle():
            time.sleep(0.0005)
        seconds = time.monotonic() - started
        assert len(self.store.ledger) == len(self.keys), "not everything was stored"
        return seconds

    def onboard(self) -> float:
        """Seconds until every block is back, which is then compared."""
        self.array[:] = 0xAA
        over = threading.Event()
        started = time.monotonic()
        found = self.stack.onboarder.look_up(self.keys, None)
        load = self.stack.onboarder.load(found, self.blocks, lambda _load: over.set())
        assert load is not None
        assert over.wait(LIMIT_S)
        seconds = time.monotonic() - started
        assert load.prefix == len(self.keys), "not everything came back"
        wrong = sum(xxhash.xxh3_64_intdigest(row) != want for row, want in zip(self.array, self.sums, strict=True))
        assert not wrong, f"{wrong} blocks came back wrong"
        return seconds

    def close(self) -> None:
        self.stack.close()
        self.device.close()
        del self.array
        self.pool.close()


def in_threads(jobs: list[Callable[[], object]]) -> float:
    """Seconds for all of them on eight threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        started = time.monotonic()
        for future in [pool.submit(job) for job in jobs]:
            future.result()
        return time.monotonic() - started


class RawDisk:
    """The ceiling: large pieces, O_DIRECT, eight threads, memory that is never looked at."""

    def __init__(self, path: Path, size: int) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        self.offsets = list(range(0, size // PIECE * PIECE, PIECE))
        self.size = len(self.offsets) * PIECE
        os.posix_fallocate(self.descriptor, 0, self.size)
        self.buffers = threading.local()

    def write(self) -> float:
        return in_threads(
            [lambda o=offset: self._check(os.pwrite(self.descriptor, self._buffer(), o)) for offset in self.offsets]
        )

    def read(self) -> float:
        return in_threads(
            [lambda o=offset: self._check(os.preadv(self.descriptor, [self._buffer()], o)) for offset in self.offsets]
        )

    def _buffer(self) -> mmap.mmap:
        if not hasattr(self.buffers, "own"):
            self.buffers.own = mmap.mmap(-1, PIECE)
            self.buffers.own[:] = os.urandom(PIECE)
        return self.buffers.own

    @staticmethod
    def _check(done: int) -> None:
        assert done == PIECE


def compare(
    rounds: int, size: int, pairs: dict[str, tuple[Callable[[], float], Callable[[], float]]], raw_size: int
) -> dict[str, Any]:
    """Medians in bytes per second of ours and of the ceiling, and their quotient round by round."""
    seconds: dict[str, list[float]] = {f"{side} {name}": [] for name in pairs for side in ("ours", "ceiling")}
    for number in range(rounds):
        for name, (ours, ceiling) in pairs.items():
            order = (("ours", ours), ("ceiling", ceiling))
            for side, run in order if number % 2 else reversed(order):
                seconds[f"{side} {name}"].append(run())
    result: dict[str, Any] = {}
    for name in pairs:
        ours = [size / value for value in seconds[f"ours {name}"]]
        ceiling = [raw_size / value for value in seconds[f"ceiling {name}"]]
        result[name] = {
            "ours_gb_per_s": round(statistics.median(ours) / 1e9, 3),
            "ceiling_gb_per_s": round(statistics.median(ceiling) / 1e9, 3),
            "share_of_ceiling": round(statistics.median(ours) / statistics.median(ceiling), 3),
            "ours_min_max": [round(min(ours) / 1e9, 3), round(max(ours) / 1e9, 3)],
            "ceiling_min_max": [round(min(ceiling) / 1e9, 3), round(max(ceiling) / 1e9, 3)],
            "seconds_median": round(statistics.median(seconds[f"ours {name}"]), 3),
        }
    return result


def disk(folder: Path, size: int, rounds: int) -> dict[str, Any]:
    blocks = int(size // LAYOUT.block_bytes)
    frame = page_format(LAYOUT, "benchmark").frame_bytes
    rig = Rig(CacheSettings(disk=DiskTier(str(folder / "tier"), blocks * 5 // 4 * frame), admission="all"), blocks)
    raw = RawDisk(folder / "raw", size)
    rig.offload(), raw.write()  # the first round allocates
    try:
        pairs = {"offload": (rig.offload, raw.write), "onboard": (rig.onboard, raw.read)}
        return compare(rounds, blocks * LAYOUT.block_bytes, pairs, raw.size) | {
            "bytes": blocks * LAYOUT.block_bytes,
            "fragments": blocks * LAYOUT.block_bytes // FRAGMENT,
            "blocks": blocks,
            "o_direct": rig.store.is_direct,
        }
    finally:
        rig.close()
        os.close(raw.descriptor)


def objects(url: str, size: int, rounds: int) -> dict[str, Any]:
    blocks = int(size // LAYOUT.block_bytes)
    frame = page_format(LAYOUT, "benchmark").frame_bytes
    client = open_store(url, 60)
    # As many as our copies go through: one body alone would stay in the processor's cache.
    bodies = [
        memoryview(bytearray(os.urandom(frame))) for _ in range(STAGING_BATCHES * HostDevice.batch_bytes // frame)
    ]
    sink = threading.local()

    def clear() -> None:
        for batch in obstore.list(client):
            obstore.delete(client, [found["path"] for found in batch])

    def put() -> float:
        clear()
        return in_threads(
            [
                lambda n=n: obstore.put(client, f"raw/{n}", bodies[n % len(bodies)], mode="create", use_multipart=False)
                for n in range(blocks)
            ]
        )

    def get_one(number: int) -> None:
        if not hasattr(sink, "own"):
            sink.own = memoryview(bytearray(frame))
        at = 0
        for chunk in obstore.get(client, f"raw/{number}").stream(min_chunk_size=1 << 20):
            sink.own[at : at + len(chunk)] = memoryview(chunk)
            at += len(chunk)
        assert at == frame

    def get() -> float:
        return in_threads([lambda n=n: get_one(n) for n in range(blocks)])

    rig = Rig(CacheSettings(object=ObjectTier(url), admission="all"), blocks)
    assert isinstance(rig.store, Objects)

    def offload() -> float:
        clear()
        return rig.offload()

    def put_then_get() -> float:
        put()
        return get()

    def offload_then_onboard() -> float:
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
    parser.add_argument("--object-mib", type=int, default=128)
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
        folder, size = Path(name), options.object_mib << 20
        keep("object_file", objects(f"file://{folder}/objects", size, options.rounds))
        with s3(options.swift, folder) as url:
            if url is not None:
                keep("object_s3_swift", objects(url, size, options.rounds))
        keep("disk", disk(folder, int(options.gb * 1e9), options.rounds))


if __name__ == "__main__":
    main()
