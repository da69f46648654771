"""What of a copy an engine takes; and, on a real GPU, that kernel and engine together copy every byte and sum it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gpu_pools import download, uploaded, why_no_gpu
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.kv.cuda.batch import why_no_batches
from dynamoc.runtime.kv.cuda.copier import Runs
from dynamoc.runtime.kv.cuda.copy_engine import LEAST_BYTES, EngineCopier, engine_share
from dynamoc.runtime.kv.cuda.device import runtime
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.transfer.sums import sums_of

BLOCKS = 24


WHY_NOT = why_no_gpu() or why_no_batches()
LAYOUT = KvLayout(1, 1, 1, 2 << 20, "uint8", 1, 1)

on_gpu = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is a GPU")


@given(st.integers(0, 100_000), st.integers(1, 1 << 26))
def test_every_run_is_copied_once_and_longer_runs_are_rather_the_engines(count: int, run_bytes: int) -> None:
    share = engine_share(count, run_bytes)

    assert 0 <= share <= count
    assert share <= engine_share(count, 2 * run_bytes)
    assert not share or run_bytes >= LEAST_BYTES


def test_the_engine_takes_two_thirds_of_the_shortest_and_more_of_the_long() -> None:
    assert [engine_share(1000, kib << 10) for kib in (64, 1023, 1024, 2048)] == [0, 0, 667, 800]


@pytest.fixture
def copier() -> Iterator[EngineCopier]:
    made = EngineCopier(0, ctas=8)
    yield made
    made.close()


@on_gpu
@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("span", [(0, 2 << 20), (4096, 1 << 20), (12, (1 << 20) + 20), (0, 65536)])
def test_kernel_and_engine_copy_every_byte_and_no_other(
    copier: EngineCopier, span: tuple[int, int], *, sums: bool
) -> None:
    (start, size), random = span, np.random.default_rng(3)
    data = random.integers(0, 256, (BLOCKS, 2 << 20), np.uint8)
    want = np.full_like(data, 0xA5)
    source, destination = uploaded(LAYOUT, data), uploaded(LAYOUT, want)
    sources, destinations = (random.permutation(BLOCKS)[:19].astype(np.uint64) for _ in range(2))
    into = np.zeros((19, 2), np.uint64)

    for _ in range(3):  # events and slots are used again
        copy = copier.copy(
            Runs(source.address + start, 2 << 20, sources),
            Runs(destination.address + start, 2 << 20, destinations),
            size,
            sums=sums,
            into=into,
        )
        copy.wait(30)

    want[destinations, start : start + size] = data[sources, start : start + size]
    assert np.array_equal(download(destination), want)
    if sums:
        assert into.tolist() == [list(sums_of(data[block, start : start + size])) for block in sources]
    else:
        assert copy.sums is None
    source.close()
    destination.close()


@on_gpu
def test_both_wait_for_what_comes_before(copier: EngineCopier) -> None:
    """The source is filled by another stream that is kept busy before."""
    size = LAYOUT.block_bytes
    source = uploaded(LAYOUT, np.zeros((BLOCKS, size), np.uint8))
    destination = uploaded(LAYOUT, np.zeros((BLOCKS, size), np.uint8))
    before = EngineCopier(0, ctas=1)
    filled = uploaded(LAYOUT, np.random.default_rng(4).integers(0, 256, (BLOCKS, size), np.uint8))
    everything = np.arange(BLOCKS, dtype=np.uint64)
    event = runtime.eventCreateWithFlags(2)

    for _ in range(20):  # some milliseconds of one CTA
        before.copy(
            Runs(filled.address, size // 16, everything), Runs(source.address, size // 16, everything), size // 16
        )
    last = Runs(source.address, 65536, np.arange(BLOCKS * size // 65536, dtype=np.uint64))
    before.copy(Runs(filled.address, 65536, last.indices), last, 65536)
    runtime.eventRecord(event, before.stream)
    copier.after(event)
    copier.copy(Runs(source.address, size, everything), Runs(destination.address, size, everything), size).wait(30)

    assert np.array_equal(download(destination), download(filled))
    before.close()
    runtime.eventDestroy(event)
    for pool in (source, destination, filled):
        pool.close()
