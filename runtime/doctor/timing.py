"""What every measurement shares: sizes, the median of a few rounds, the bytes looked at afterwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.measured import Place, Sample, Way

RUN_BYTES = (16 << 10, 64 << 10, 256 << 10, 2 << 20)
ROUNDS = 5
POISON = 0xA5
SEED = 19


class WrongBytesError(RuntimeError):
    """A way moved blocks and what arrived is not what was sent: it must not be used."""


def layout_of(run_bytes: int) -> KvLayout:
    """Blocks of so many bytes."""
    return KvLayout(layers=1, heads=1, head_dim=run_bytes // 32, block_size=16, dtype="uint8", item_bytes=1)


def shuffled(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every block once, in one order at the source and in another at the target."""
    random = np.random.default_rng(SEED)
    return random.permutation(count), random.permutation(count)


def rows(pool: HostPool) -> NDArray[np.uint8]:
    """Its blocks, one a row."""
    return np.frombuffer(pool.data, np.uint8).reshape(pool.blocks, -1)


def random_pool(run_bytes: int, total: int) -> HostPool:
    """A pool of random bytes."""
    pool = HostPool(layout_of(run_bytes), total // run_bytes)
    words = np.frombuffer(pool.data, np.uint64)
    words[:] = np.random.default_rng(run_bytes).integers(0, 2**64, words.size, np.uint64)
    return pool


def poisoned_pool(run_bytes: int, total: int) -> HostPool:
    """A pool in which nothing has arrived."""
    pool = HostPool(layout_of(run_bytes), total // run_bytes)
    np.frombuffer(pool.data, np.uint8)[:] = POISON
    return pool


def sample(
    between: tuple[Place, Place, Way], run_bytes: int, total: int, once: Callable[[], object], rounds: int = ROUNDS
) -> Sample:
    """Time `once`, which moves `total` bytes in runs of this length; the first round does not count."""
    return _sample(between, run_bytes, total, [_timed(once) for _ in range(rounds + 1)][1:])


async def sample_async(
    between: tuple[Place, Place, Way], run_bytes: int, total: int, once: Callable[[], Awaitable[object]]
) -> Sample:
    """The same on an event loop."""
    took = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        await once()
        took.append(time.perf_counter() - began)
    return _sample(between, run_bytes, total, took[1:])


def check_arrived(between: tuple[Place, Place, Way], got: NDArray[np.uint8], want: NDArray[np.uint8]) -> None:
    """WrongBytesError if they differ."""
    if not np.array_equal(got, want):
        source, target, way = between
        raise WrongBytesError(f"{way} from {source} to {target}: what arrived is not what was sent")


def _timed(once: Callable[[], object]) -> float:
    began = time.perf_counter()
    once()
    return time.perf_counter() - began


def _sample(between: tuple[Place, Place, Way], run_bytes: int, total: int, took: Sequence[float]) -> Sample:
    return Sample(*between, run_bytes, round(total / statistics.median(took)), len(took))
