"""The copier, its ring and shared pools on a real GPU; the bytes are compared by numpy in host memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import xxhash
from gpu_pools import download, uploaded, why_no_gpu

from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError, runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool, PinnedPool
from dynamoc.runtime.kv.cuda.staged import StagedCopier
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.sums import sums_of

BLOCKS = 200
POISON = 0xA5


pytestmark = pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu() or "there is a GPU")


def layout(block_bytes: int) -> KvLayout:
    return KvLayout(layers=1, heads=1, head_dim=1, block_size=block_bytes, dtype="uint8", item_bytes=1, parts=1)


def filled(block_bytes: int, seed: int | None = None) -> tuple[DevicePool, np.ndarray]:
    """A pool of random blocks, or a poisoned one."""
    data = np.full((BLOCKS, block_bytes), POISON, np.uint8)
    if seed is not None:
        data[:] = np.random.default_rng(seed).integers(0, 256, data.shape, np.uint8)
    return uploaded(layout(block_bytes), data), data


def orders(count: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return tuple(random.permutation(BLOCKS)[:count].astype(np.uint64) for _ in range(2))  # type: ignore[return-value]


@pytest.fixture
def copier() -> Iterator[Copier]:
    made = Copier(0, ctas=8, slots=2, slot_runs=16)  # so small that every test goes round the ring
    yield made
    made.close()


@pytest.mark.parametrize("size", [1, 4, 12, 24, 4096, 4100, 65536, 100_000])
def test_shuffled_blocks_arrive_with_their_sums(copier: Copier, size: int) -> None:
    source, data = filled(size, seed=1)
    destination, want = filled(size)
    sources, destinations = orders(150)

    copy = copier.copy(
        Runs(source.address, size, sources), Runs(destination.address, size, destinations), size, sums=True
    )
    copy.wait(30)
    there = copier.sum(Runs(destination.address, size, destinations), size)
    there.wait(30)

    want[destinations] = data[sources]
    assert np.array_equal(download(destination), want)
    assert copy.sums is not None
    assert there.sums is not None
    assert copy.sums.tolist() == [list(sums_of(data[block])) for block in sources]
    assert np.array_equal(copy.sums, there.sums)
    source.close()
    destination.close()


def test_a_flipped_bit_is_in_the_sums(copier: Copier) -> None:
    pool, data = filled(4096, seed=2)
    data[77, 4095] ^= 0x10
    runtime.memcpy(pool.address, data.ctypes.data, data.size, 1)
    clean = [list(sums_of(block)) for block in np.random.default_rng(2).integers(0, 256, data.shape, np.uint8)]

    found = copier.sum(Runs(pool.address, 4096, np.arange(BLOCKS, dtype=np.uint64)), 4096)
    found.wait(30)

    assert found.sums is not None
    assert [row for row in range(BLOCKS) if found.sums[row].tolist() != clean[row]] == [77]
    pool.close()


@pytest.mark.parametrize("way", ["offload", "onboard"])
def test_page_locked_memory(copier: Copier, way: str) -> None:
    size = 16384
    device, data = filled(size, seed=3)
    host = HostPool(layout(size), BLOCKS)
    blocks = np.frombuffer(host.data, np.uint8).reshape(BLOCKS, size)
    blocks[:] = np.random.default_rng(4).integers(0, 256, blocks.shape, np.uint8)
    pinned = PinnedPool(host)
    pools = [(device.address, data), (pinned.address, blocks.copy())]
    (from_, have), (to, want) = pools if way == "offload" else reversed(pools)
    sources, destinations = orders(BLOCKS)

    copier.copy(Runs(from_, size, sources), Runs(to, size, destinations), size).wait(30)

    want = want.copy()
    want[destinations] = have[sources]
    assert np.array_equal(blocks if way == "offload" else download(device), want)
    pinned.close()
    device.close()


def test_many_copies_share_two_slots(copier: Copier) -> None:
    size = 8192
    source, data = filled(size, seed=6)
    destination, want = filled(size)
    sources, destinations = orders(192)
    parts = [slice(start, start + 3) for start in range(0, 192, 3)]

    copies = [
        copier.copy(
            Runs(source.address, size, sources[part]),
            Runs(destination.address, size, destinations[part]),
            size,
            sums=True,
        )
        for part in parts
    ]
    for copy in reversed(copies):
        copy.wait(30)

    assert len(copies) == 64
    want[destinations] = data[sources]
    assert np.array_equal(download(destination), want)
    for part, copy in zip(parts, copies, strict=True):
        assert copy.sums is not None
        assert copy.sums.tolist() == [list(sums_of(data[block])) for block in sources[part]]
    source.close()
    destination.close()


def test_more_than_fifty_thousand_runs() -> None:
    copier = Copier(0)
    source, data = filled(262_144, seed=7)
    destination, want = filled(262_144)
    count, size = BLOCKS * 512, 512
    sources, destinations = (np.random.default_rng(s).permutation(count).astype(np.uint64) for s in (1, 2))

    copier.copy(Runs(source.address, size, sources), Runs(destination.address, size, destinations), size).wait(30)

    want.reshape(count, size)[destinations] = data.reshape(count, size)[sources]
    assert np.array_equal(download(destination), want)
    copier.close()
    source.close()
    destination.close()


def test_a_deadline_that_is_too_short_is_an_error() -> None:
    copier = Copier(0, ctas=1)  # 200 MiB by one CTA take milliseconds
    pool, _ = filled(1 << 20, seed=8)
    copy = copier.sum(Runs(pool.address, 1 << 20, np.arange(BLOCKS, dtype=np.uint64)), 1 << 20)

    with pytest.raises(TimeoutError, match="within"):
        copy.wait(0)
    copy.wait(30)
    copier.close()
    pool.close()


@pytest.mark.parametrize("size", [4096, 16384])
@pytest.mark.parametrize("count", [BLOCKS, 177, 1, 0], ids=["one range on the host", "some ranges", "one", "none"])
def test_staged_copies_there_and_back(size: int, count: int) -> None:
    staged = StagedCopier(0, ctas=4, pieces=2, piece_bytes=65536 + 100)
    source, data = filled(size, seed=10)
    destination, want = filled(size)
    host = HostPool(layout(size), BLOCKS)
    blocks = np.frombuffer(host.data, np.uint8).reshape(BLOCKS, size)
    pinned = PinnedPool(host)
    (sources, places), (_, destinations) = orders(count), orders(count, seed=6)
    there = Runs(pinned.address, size, places)

    staged.offload(Runs(source.address, size, sources), there, size).wait(30)
    assert np.array_equal(blocks[places], data[sources])
    assert not np.delete(blocks, places, axis=0).any()
    staged.onboard(there, Runs(destination.address, size, destinations), size).wait(30)

    want[destinations] = data[sources]
    assert np.array_equal(download(destination), want)
    staged.close()
    pinned.close()
    source.close()
    destination.close()


def test_staging_refuses_what_does_not_fit() -> None:
    staged = StagedCopier(0, ctas=4, pieces=2, piece_bytes=65536)
    one, two = (Runs(0, 1 << 20, np.arange(count, dtype=np.uint64)) for count in (1, 2))

    with pytest.raises(ValueError, match="does not fit"):
        staged.onboard(one, one, 1 << 20)
    with pytest.raises(ValueError, match="2 blocks of the device, 1 of the host"):
        staged.offload(two, one, 4096)
    staged.close()


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match="there is no GPU 99"):
        Copier(99)


PUSH = """
import json, sys
import numpy as np
from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.cuda.pool import MappedPool
handle, source, size, sources, destinations = json.loads(sys.stdin.readline())
peer = MappedPool(bytes.fromhex(handle), 0)
mine = MappedPool(bytes.fromhex(source), 0)
copier = Copier(0)
orders = [np.array(order, np.uint64) for order in (sources, destinations)]
copier.copy(Runs(mine.address, size, orders[0]), Runs(peer.address, size, orders[1]), size).wait(30)
copier.close(); mine.close(); peer.close()
print("pushed")
"""


def test_another_process_pushes_into_a_shared_pool() -> None:
    size = 4096
    source, data = filled(size, seed=9)
    destination, want = filled(size)
    sources, destinations = orders(120)
    words = [destination.handle().hex(), source.handle().hex(), size, sources.tolist(), destinations.tolist()]

    done = subprocess.run(
        [sys.executable, "-c", PUSH], input=json.dumps(words) + "\n", capture_output=True, text=True, timeout=120
    )

    assert done.stdout.strip() == "pushed", done.stderr
    want[destinations] = data[sources]
    assert np.array_equal(download(destination), want)
    source.close()
    destination.close()


@pytest.mark.parametrize(("group", "last", "groups"), [(4096, 4096, 3), (1000, 248, 2), (65536 + 8, 1032, 8)])
def test_digests_are_those_of_the_library(copier: Copier, group: int, last: int, groups: int) -> None:
    size = (groups - 1) * group + last
    pool, data = filled(size, seed=3)
    blocks, _ = orders(77)

    taken = copier.digests(Runs(pool.address, size, blocks), size, group)
    taken.wait(30)

    assert taken.sums is not None
    found = taken.sums.reshape(-1)[: 77 * groups].reshape(77, groups)
    runs = data[blocks.astype(np.int64)]
    assert found.tolist() == [
        [xxhash.xxh3_64_intdigest(run[g * group : (g + 1) * group]) for g in range(groups)] for run in runs
    ]
    pool.close()


def test_groups_too_short_or_askew_for_the_kernel_are_refused(copier: Copier) -> None:
    runs = Runs(4096, 4096, np.arange(2, dtype=np.uint64))
    for size, group in ((4096, 4092), (4096, 240), (4096, 4000), (4100, 4100)):
        with pytest.raises(ValueError, match="groups of"):
            copier.digests(runs, size, group)
