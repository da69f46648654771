"""What the GPU benchmarks share: pools of random bytes, permutations, times, figures."""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from cuda_run import skip

from dynamoc.runtime.kv.cuda.copier import Copy, Runs
from dynamoc.runtime.kv.cuda.device import wait_for
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout

try:
    import cupy
    from cupy.cuda import runtime
except ImportError as missing:  # it is there only where GPUs are
    skip(str(missing))

BLOCK_BYTES = (16 << 10, 64 << 10, 256 << 10, 2 << 20)
POISON = 0xA5
DEADLINE_S = 20.0


def layout_of(block_bytes: int) -> KvLayout:
    """Blocks of so many bytes."""
    return KvLayout(layers=1, heads=1, head_dim=block_bytes // 32, block_size=16, dtype="uint8", item_bytes=1)


def random_bytes(total: int, seed: int) -> np.ndarray:
    """Random bytes that every process makes alike."""
    return np.random.default_rng(seed).integers(0, 2**64, total // 8, np.uint64).view(np.uint8)


def device_pool(total: int) -> DevicePool:
    """A pool of `total` bytes on the process's first GPU, poisoned."""
    pool = DevicePool(layout_of(BLOCK_BYTES[0]), total // BLOCK_BYTES[0], 0)
    runtime.memset(pool.address, POISON, total)
    return pool


def upload(pool: DevicePool, data: np.ndarray) -> None:
    """Fill a device pool from pageable memory."""
    runtime.memcpy(pool.address, data.ctypes.data, data.size, 1)


@functools.cache
def shuffled(total: int, block_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Every block once, in one order at the source and in another at the destination."""
    random = np.random.default_rng(block_bytes)
    count = total // block_bytes
    return random.permutation(count).astype(np.uint64), random.permutation(count).astype(np.uint64)


def wrong_words(got: int, got_order: np.ndarray, want: int, want_order: np.ndarray, block_bytes: int) -> int:
    """64-bit words of the blocks at device address `got` that differ from those at `want`; not by our kernels."""
    blocks = [
        _words(address, (int(order.max()) + 1) * block_bytes).reshape(-1, block_bytes // 8)
        for address, order in ((got, got_order), (want, want_order))
    ]
    orders = [cupy.asarray(order.astype(np.int64)) for order in (got_order, want_order)]
    wrong = 0
    for part in range(0, got_order.size, step := max(1, (256 << 20) // block_bytes)):
        rows = slice(part, part + step)
        wrong += int(cupy.count_nonzero(blocks[0][orders[0][rows]] != blocks[1][orders[1][rows]]))
    return wrong


def runs(address: int, order: np.ndarray, block_bytes: int) -> Runs:
    """Blocks of a pool in this order."""
    return Runs(address, block_bytes, order)


def seconds(start: Callable[[], Copy]) -> float:
    """From the call until every byte is there."""
    began = time.perf_counter()
    start().wait(DEADLINE_S)
    return time.perf_counter() - began


class Stream:
    """A stream of plain copies, timed as ours are: from the call until its event has come."""

    def __init__(self) -> None:
        self.stream = runtime.streamCreateWithFlags(1)
        self.event = runtime.eventCreateWithFlags(2)

    def copy(self, destination: int, source: int, size: int) -> None:
        """One asynchronous copy; the driver sees from the addresses between what."""
        runtime.memcpyAsync(destination, source, size, 4, self.stream)

    def wait(self) -> None:
        """Until all of it is done."""
        runtime.eventRecord(self.event, self.stream)
        wait_for(self.event, DEADLINE_S)


def rate(total: int, times: Sequence[float]) -> float:
    """Median GB/s."""
    return round(total / statistics.median(times) / 1e9, 1)


def facts(command: str) -> dict[str, Any]:
    """Date, hardware, versions and command of a run."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpus = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.strip().splitlines()
    names = [line.split(",")[0].strip() for line in gpus]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{len(names)} x {names[0]}, {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {
            "python": platform.python_version(),
            "driver": gpus[0].split(",")[1].strip(),
            "cuda": runtime.runtimeGetVersion(),
            "cupy": cupy.__version__,
            "numpy": np.__version__,
            **_nixl(),
        },
        "command": command,
    }


def save(path: Path, figures: list[dict[str, Any]]) -> None:
    """Write the figures in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(figures, indent=2) + "\n")
    temporary.replace(path)


def _words(address: int, total: int) -> cupy.ndarray:
    memory = cupy.cuda.UnownedMemory(address, total, None)
    return cupy.ndarray(total // 8, cupy.uint64, cupy.cuda.MemoryPointer(memory, 0))


def _nixl() -> dict[str, str]:
    for name in ("nixl-cu13", "nixl-cu12"):
        try:
            return {name: version(name)}
        except PackageNotFoundError:
            continue
    return {}
