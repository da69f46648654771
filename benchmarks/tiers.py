"""How fast KV moves between the device pool and the tiers of a CPU worker, each beside the ceiling of the same minute.

    python benchmarks/tiers.py [--gb 2.4] [--turns 11] [--folder DIR] [--swift VENV] [--output FILE] [--only PART]
        [--huge-pages]

The prefix is that of Dynamo's issue 6101: 2.4 GB whose fragments are 16 KiB each (a layer's keys of one block). It is
offloaded to disk and onboarded again, straight from the pool (no host tier), with every checksum taken and checked.

The disk's ceiling is the same bytes with O_DIRECT and nothing else done, by the best of several sizes of pieces and
counts of threads, which is looked for first (raw_disk.py); `used_again` is what reading gives if a few buffers are used
over and over, so that nothing is kept. The ceiling of an object store is the same client with the
same objects, as many threads and no tiers: a folder, and a real S3 server on this machine.
Ours and the ceiling take turns (turns.py); speeds are medians, a share the median of the quotients of all turns. Every
byte that comes back is compared with what was stored. `cpu_s_per_gb` is what this process computes for it: cores
divided by it bound the speed, whatever the disk.

A CPU worker's pool is memory that others may map. It lies in huge pages only where the kernel was told so; scattered
over small ones, it leaves for a disk at about half the speed. `--huge-pages` tells it, as root, for the time of the
measurement: `echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled`. The setting is kept with the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import xxhash

ROOT = Path(__file__).resolve().parent.parent
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(ROOT / "tests" / "runtime" / "kv" / "tiers"), str(SUPPORT / "s3"), str(SUPPORT / "ports")]

from raw_disk import RawDisk  # noqa: E402
from tier_kit import chain  # noqa: E402
from turns import Side, Spent, Watch, by_turns, in_threads  # noqa: E402

from dynamoc.runtime.kv.layout import KvLayout  # noqa: E402
from dynamoc.runtime.kv.pool import HostPool  # noqa: E402
from dynamoc.runtime.kv.tiers import onboard  # noqa: E402
from dynamoc.runtime.kv.tiers.device import HostDevice  # noqa: E402
from dynamoc.runtime.kv.tiers.objects import open_store  # noqa: E402
from dynamoc.runtime.kv.tiers.page import page_format  # noqa: E402
from dynamoc.runtime.kv.tiers.stack import TierStack  # noqa: E402
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier  # noqa: E402

FRAGMENT = 16 * 1024
LAYOUT = KvLayout(layers=32, heads=8, head_dim=128, block_size=8, dtype="bfloat16", item_bytes=2)
"""Llama-3.1-8B in blocks of 8 tokens: 64 fragments of 16 KiB, 1 MiB a block."""
THREADS = 8
OFFER = 128
"""Blocks offered at a time: as much as an engine computes in a few steps."""
ROOM = 24
"""Copies in line below which there is room for as many blocks, however the pages are batched."""
LIMIT_S = 600
SETTING = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


class Rig:
    """A pool of random blocks above one tier."""

    def __init__(self, cache: CacheSettings, blocks: int) -> None:
        self.pool = HostPool(LAYOUT, blocks)
        self.size = LAYOUT.block_bytes * blocks
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


def disk(folder: Path, size: int, turns: int) -> dict[str, Any]:
    blocks = int(size // LAYOUT.block_bytes)
    frame = page_format(LAYOUT, "benchmark").frame_bytes
    rig = Rig(CacheSettings(disk=DiskTier(str(folder / "tier"), blocks * 5 // 4 * frame), admission="all"), blocks)
    raw = RawDisk(folder / "raw", rig.size)
    rig.offload()  # the first time allocates
    for way in (raw.write, raw.read, raw.read_again):
        way()  # the first time looks for the best shape
    reads = {"ceiling": Side(raw.read, raw.size), "used_again": Side(raw.read_again, raw.size)}
    try:
        return {
            "offload": by_turns(turns, ours=Side(rig.offload, rig.size), ceiling=Side(raw.write, raw.size)),
            "onboard": by_turns(turns, ours=Side(rig.onboard, rig.size), **reads),
            "bytes": rig.size,
            "fragments": rig.size // FRAGMENT,
            "blocks": blocks,
            "o_direct": rig.store.is_direct,
            "ceiling_bytes_and_threads": raw.shapes,
        }
    finally:
        rig.close()
        raw.close()


class RawObjects:
    """The ceiling: the same client, with as many objects of the same size and as many threads, and nothing else."""

    def __init__(self, url: str, count: int) -> None:
        frame = page_format(LAYOUT, "benchmark").frame_bytes
        self._count = count
        self.size = count * frame
        self._client = open_store(url, 60)
        # As many as our pool has, or 64: one body alone would stay in the processor's cache.
        self._bodies = [memoryview(bytearray(os.urandom(frame))) for _ in range(min(count, 64))]
        self._sinks = [memoryview(bytearray(frame)) for _ in range(THREADS)]

    def clear(self) -> None:
        """Every object of the store goes, ours too."""
        for batch in obstore.list(self._client):
            obstore.delete(self._client, [found["path"] for found in batch])

    def put(self) -> Spent:
        """All of them, into an empty store."""
        self.clear()
        return in_threads(self._count, THREADS, self._put)

    def get(self) -> Spent:
        """All of them, each into memory of ours."""
        return in_threads(self._count, THREADS, self._get)

    def _put(self, number: int, _thread: int) -> None:
        body = self._bodies[number % len(self._bodies)]
        obstore.put(self._client, f"raw/{number}", body, mode="create", use_multipart=False)

    def _get(self, number: int, thread: int) -> None:
        self._sinks[thread][:] = memoryview(obstore.get(self._client, f"raw/{number}").bytes())


def objects(url: str, size: int, turns: int) -> dict[str, Any]:
    """Of each side, what was stored last stays there while it is read; the other's store is another folder."""
    blocks = int(size // LAYOUT.block_bytes)
    raw = RawObjects(f"{url}/raw", blocks)
    rig = Rig(CacheSettings(object=ObjectTier(f"{url}/ours"), admission="all"), blocks)
    ours = RawObjects(f"{url}/ours", 0)

    def offload() -> Spent:
        ours.clear()
        return rig.offload()

    try:
        return {
            "offload": by_turns(turns, ours=Side(offload, rig.size), ceiling=Side(raw.put, raw.size)),
            "onboard": by_turns(turns, ours=Side(rig.onboard, rig.size), ceiling=Side(raw.get, raw.size)),
            "blocks": blocks,
        }
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


def shared_huge_pages() -> str | None:
    """Which shared memory the kernel gives huge pages: `never`, `advise`, and so on."""
    return SETTING.read_text().partition("[")[2].partition("]")[0] if SETTING.exists() else None


@contextlib.contextmanager
def advised(*, wanted: bool) -> Iterator[None]:
    """Huge pages for shared memory that asks for them, if wanted; then as it was."""
    before = shared_huge_pages()
    if not wanted or before is None:
        yield
        return
    SETTING.write_text("advise")
    try:
        yield
    finally:
        SETTING.write_text(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gb", type=float, default=2.4, help="size of the prefix on disk")
    parser.add_argument("--file-mib", type=int, default=1024, help="in a folder of objects")
    parser.add_argument("--s3-mib", type=int, default=32, help="and on an S3 server")
    parser.add_argument("--only", choices=("disk", "file", "s3"), help="measure only this")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--swift", help="virtual environment with Swift in it")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--huge-pages", action="store_true", help="let the kernel give pools some, as root")
    options = parser.parse_args()
    with advised(wanted=options.huge_pages):
        measure(options)


def measure(options: argparse.Namespace) -> None:
    result: dict[str, Any] = {
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load_at_start": os.getloadavg()[0],
            "shared_huge_pages": shared_huge_pages(),
        },
    }

    def keep(name: str, measured: dict[str, Any]) -> None:
        result[name] = measured
        print(json.dumps({name: measured}, indent=2), flush=True)
        if options.output is not None:
            options.output.write_text(json.dumps(result, indent=2) + "\n")

    # Before a tier was measured, a load is given up by what is assumed of it; a server on a busy machine is slower.
    onboard.SHORTEST_DEADLINE_S = LIMIT_S
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.only in (None, "disk"):
            keep("disk", disk(folder, int(options.gb * 1e9), options.turns))
        if options.only in (None, "file"):
            keep("object_file", objects(f"file://{folder}/objects", options.file_mib << 20, options.turns))
        if options.only in (None, "s3"):
            with s3(options.swift, folder) as url:
                if url is not None:
                    keep("object_s3_swift", objects(url, options.s3_mib << 20, options.turns))


if __name__ == "__main__":
    main()
