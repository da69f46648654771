"""Tiers below the pool of a real GPU: pages are those of a CPU worker, and every byte comes back."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from gpu_pools import download, why_no_gpu
from tier_kit import WAIT_S, chain

from dynamoc.runtime.kv.cuda.batch import why_no_batches
from dynamoc.runtime.kv.cuda.device import runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.tiers.cuda_device import CudaDevice
from dynamoc.runtime.kv.tiers.device import HostDevice
from dynamoc.runtime.kv.tiers.frames import Frames
from dynamoc.runtime.kv.tiers.page import page_format, page_of
from dynamoc.runtime.kv.tiers.stack import TierStack
from dynamoc.runtime.kv.tiers.ways import Ways
from dynamoc.runtime.kv.transfer.measured import Measured, Place, Sample, Way
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier

LAYOUT = KvLayout(layers=5, heads=3, head_dim=24, block_size=7, dtype="float16", item_bytes=2)
BLOCKS = 300
_UP = 1


pytestmark = pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu() or "there is a GPU")


def filled(pool: DevicePool, seed: int) -> np.ndarray:
    data = np.random.default_rng(seed).integers(0, 256, pool.data_bytes, np.uint8)
    runtime.memcpy(pool.address, data.ctypes.data, data.size, _UP)
    runtime.deviceSynchronize()
    return data.reshape(pool.blocks, -1)


def poison(pool: DevicePool) -> None:
    """Over, before any stream that waits for no other touches the pool."""
    runtime.memset(pool.address, 0xA5, pool.data_bytes)
    runtime.deviceSynchronize()


def only(way: Way) -> Ways:
    """A host on which nothing else was measured."""
    ends = ((Place.DEVICE, Place.HOST), (Place.HOST, Place.DEVICE))
    return Ways(Measured("a host", {}, tuple(Sample(*pair, way, 16 << 10, 1e9, 1) for pair in ends)), way)


@pytest.mark.parametrize("way", [Way.BATCH, Way.KERNEL, Way.MEMCPY])
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_pages_are_those_of_a_cpu_worker(batch_bytes: int, way: Way) -> None:
    if way is Way.BATCH and (reason := why_no_batches()):
        pytest.skip(reason)
    format_ = page_format(LAYOUT, "m")
    on_gpu, on_cpu = DevicePool(LAYOUT, BLOCKS, 0), HostPool(LAYOUT, BLOCKS)
    device = CudaDevice(on_gpu, format_, only(way), batch_bytes)
    other = HostDevice(on_cpu, format_)
    frames = [Frames(BLOCKS, format_.frame_bytes, one.pin) for one in (device, other)]
    pages = [[page_of(format_, one.view(number)) for number in range(BLOCKS)] for one in frames]
    data, order = filled(on_gpu, 1), np.random.default_rng(2).permutation(BLOCKS).tolist()
    on_cpu.data[:] = data.tobytes()
    device.read(order, pages[0])
    other.read(order, pages[1])
    assert pages[0] == pages[1]
    assert device.takes_digests
    assert device.digests(order) == other.digests(order)
    assert device.digests(order[:7], range(1, 3)) == other.digests(order[:7], range(1, 3))

    poison(on_gpu)
    device.write(pages[0][:200], order[:200])

    got = download(on_gpu)
    assert (got[order[:200]] == data[order[:200]]).all()
    assert (got[order[200:]] == 0xA5).all(), "no other block was touched"
    assert {(kind, op) for kind, op in device.ways_taken()} == {(way, "offload"), (way, "onboard")}

    span = format_.span(range(1, 3))
    poison(on_gpu)
    device.write([page[span.start : span.end] for page in pages[0]], order, range(1, 3))

    got = download(on_gpu)
    assert (got[order, span.start : span.end] == data[order, span.start : span.end]).all()
    assert (np.delete(got, np.s_[span.start : span.end], 1) == 0xA5).all(), "no other layer was touched"
    pages.clear()
    for one in (*frames, device, other, on_gpu, on_cpu):
        one.close()


@pytest.mark.parametrize("tiers", ["host", "disk", "object", "host+disk"])
def test_every_byte_comes_back_through_every_tier(tiers: str, tmp_path: Path) -> None:
    frame, wanted = page_format(LAYOUT, "m").frame_bytes, tiers.split("+")
    cache = CacheSettings(
        host_bytes=2 * BLOCKS * frame if "host" in wanted else None,
        disk=DiskTier(str(tmp_path / "disk"), 2 * BLOCKS * frame) if "disk" in wanted else None,
        object=ObjectTier(f"file://{tmp_path}/objects") if "object" in wanted else None,
        admission="all",
    )
    pool = DevicePool(LAYOUT, BLOCKS, 0)
    device = CudaDevice(pool, page_format(LAYOUT, "m"), only(Way.MEMCPY), 64 << 10)
    read: list[int] = []
    stack = TierStack(device, cache, read.extend, lambda: None)
    keys, data = chain("gpu", BLOCKS), filled(pool, 3)
    left = list(zip(keys, range(BLOCKS), strict=True))
    while left:
        left = left[len(stack.offloader.offer(left)) :]
        settle(stack)
    assert sorted(read) == list(range(BLOCKS))

    poison(pool)
    over = threading.Event()
    found = stack.onboarder.look_up(keys, None)
    places = np.random.default_rng(4).permutation(BLOCKS).tolist()
    load = stack.onboarder.load(found, places, lambda _load: over.set())

    assert load is not None
    assert over.wait(WAIT_S)
    assert load.prefix == BLOCKS
    assert (download(pool)[places] == data).all()
    if stack.host is not None:
        (entry,) = stack.host.ledger.pin([keys[123].name])
        stack.host.frame(entry)[4096 + 777] ^= 4
        stack.host.ledger.unpin([entry])
        over.clear()
        load = stack.onboarder.load(stack.onboarder.look_up(keys, None), places, lambda _load: over.set())
        assert load is not None
        assert over.wait(WAIT_S)
        assert load.prefix == 123, "what came wrong is seen where it arrived"
        assert stack.report().corrupt == {"G2": 1}
    for one in (stack, device, pool):
        one.close()


def settle(stack: TierStack) -> None:
    done = threading.Event()
    for _ in range(int(WAIT_S / 0.005)):
        if stack.idle():
            break
        done.wait(0.005)
    stack.check_integrity()
