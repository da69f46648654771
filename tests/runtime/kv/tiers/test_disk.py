"""Pages on disk: found again after a restart or a kill, never served torn, never more than the disk can take."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tier_kit import FRAME, LAYOUT, WAIT_S, Rig, chain, disk, rig

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.tiers.disk import Disk
from dynamoc.runtime.kv.tiers.ledger import Skip
from dynamoc.runtime.kv.tiers.page import ALIGN
from dynamoc.runtime.kv.tiers.rate import DAY_S, Endurance
from dynamoc.runtime.manifest import CacheSettings, DiskTier

KEYS = chain("prompt", 12)


def segment(folder: Path) -> Path:
    return next(folder.rglob("*.seg"))


def test_pages_survive_a_restart(tmp_path: Path) -> None:
    with rig(disk(tmp_path)) as first:
        assert len(first.store(KEYS)) == 12
        told = first.stack.resident()
    with rig(disk(tmp_path)) as second:
        assert second.load(KEYS) == 12
        assert {b for e in second.stack.resident() for b in e.blocks} == {b for e in told for b in e.blocks}


def test_two_workers_of_a_node_do_not_share_a_folder(tmp_path: Path) -> None:
    with rig(disk(tmp_path)) as one, rig(disk(tmp_path)) as other:
        one.store(KEYS)

        assert other.load(KEYS) == 0
        assert one.load(KEYS) == 12


def test_pages_of_another_model_are_not_seen(tmp_path: Path) -> None:
    with rig(disk(tmp_path)) as first:
        first.store(KEYS)
    with rig(disk(tmp_path), layout=KvLayout(3, 2, 8, 4, "int32", 4)) as second:
        assert second.load(KEYS) == 0


@pytest.mark.usefixtures("by_device")
@pytest.mark.parametrize("where", ["header", "page"])
def test_a_flipped_bit_ends_the_prefix_and_is_forgotten(where: str, tmp_path: Path) -> None:
    for place in range(len(KEYS)):
        with rig(disk(tmp_path / str(place))) as first:
            first.store(KEYS)
            at = ALIGN + place * FRAME + (0 if where == "header" else ALIGN)
            with segment(tmp_path / str(place)).open("r+b") as file:
                file.seek(at + random.Random(place).randrange(100))
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 1 << place % 8]))

            assert first.load(KEYS) == place
            assert first.stack.report().corrupt == {"G3": 1}
            assert first.load(KEYS) == place, "it is not asked for again"
            first.store(KEYS)
            assert first.load(KEYS) == 12, "it is written again"


@pytest.mark.parametrize("cut", ["shorter", "gone"])
def test_a_truncated_segment_is_a_miss(cut: str, tmp_path: Path) -> None:
    with rig(disk(tmp_path)) as first:
        first.store(KEYS)
        os.truncate(segment(tmp_path), 0 if cut == "gone" else ALIGN + 5 * FRAME + 17)

        assert first.load(KEYS) < 6
        assert first.stack.report().copied


def test_a_killed_writer_leaves_pages_that_are_right_or_known_to_be_torn(tmp_path: Path) -> None:
    """Every round kills a process in the middle of its writes; every page that is then announced is checked."""
    checked = torn = 0
    for round_ in range(6):
        writer = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "kill_writer.py"), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.02 * round_)
        writer.send_signal(signal.SIGKILL)
        numbers = [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        writer.stdout.close()
        with rig(disk(tmp_path, 48)) as after:
            last = max(numbers, default=0)
            for number in range(max(0, last - 4), last + 2):
                keys = chain(number, 16)
                held = after.stack.stores[0].ledger.match(keys)
                right = after.load(keys)
                torn += right < held
                checked += right
            corrupt = sum(after.stack.report().corrupt.values())
            assert bool(corrupt) == bool(torn), "whatever is not there was seen to be wrong"
            torn = 0

    assert checked > 0


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    libc = ctypes.CDLL(None, use_errno=True)
    target = tmp_path / "tiny"
    target.mkdir()
    if libc.mount(b"tmpfs", str(target).encode(), b"tmpfs", 0, b"size=1m"):
        pytest.skip(f"mounting needs privileges: {os.strerror(ctypes.get_errno())}")
    yield target
    libc.umount2(str(target).encode(), 2)


def test_a_full_disk_stops_the_tier_from_growing_and_nothing_else(tiny: Path) -> None:
    with rig(CacheSettings(disk=DiskTier(str(tiny), 64 << 20), admission="all")) as full:
        assert full.store(KEYS)
        report = full.stack.report()

        assert full.load(KEYS) == 0
        assert report.skipped["G3", Skip.FULL] > 0
        assert report.levels[0].capacity == 0


def test_a_disk_that_fills_up_meanwhile_keeps_what_it_has(tiny: Path) -> None:
    with rig(disk(tiny, 40)) as full:
        full.store(KEYS)
        (tiny / "others").write_bytes(b"x" * 400_000)
        more = chain("more", 60)
        full.store(more)

        assert full.load(more) > 0
        assert full.stack.stores[0].ledger.capacity == 40


def test_without_o_direct_it_works_through_the_cache(tiny: Path) -> None:
    with rig(disk(tiny, 40)) as buffered:
        store = buffered.stack.stores[0]
        assert isinstance(store, Disk)
        buffered.store(KEYS)

        assert buffered.load(KEYS) == 12


def test_the_write_budget_flows_in_over_the_day(tmp_path: Path) -> None:
    now = [0.0]
    budget = Endurance(1000, lambda: now[0])

    assert budget.allows(600)
    budget.spend(600)
    assert not budget.allows(600)
    now[0] = DAY_S / 4
    assert budget.allows(600)
    budget.spend(600)
    assert not budget.allows(100)
    now[0] = 100 * DAY_S
    assert budget.allows(1000), "unused budget is kept"
    assert not budget.allows(1001), "but for one day, not more"


def test_beyond_its_write_budget_a_disk_is_only_read(tmp_path: Path) -> None:
    with rig(disk(tmp_path), daily_write_bytes=8 * FRAME) as worn:
        assert len(worn.store(KEYS)) == 8
        assert worn.stack.report().skipped["G3", Skip.ENDURANCE] == 4
        assert worn.load(KEYS) == 8


def test_frequent_admission_writes_what_is_seen_again(tmp_path: Path) -> None:
    with rig(disk(tmp_path, admission="frequent")) as careful:
        assert careful.store(KEYS) == []
        assert careful.stack.report().skipped["G3", Skip.INFREQUENT] == 12
        assert len(careful.store(KEYS)) == 12
        assert careful.load(KEYS) == 12


def test_more_than_fifty_thousand_pages_at_once(tmp_path: Path) -> None:
    """One prompt of them goes down and comes back onto other blocks; every run is cut below what one call may take."""
    small = KvLayout(1, 1, 1, 4, "uint8", 1)
    count = 51_200
    keys = chain("many", count)
    with rig(CacheSettings(disk=DiskTier(str(tmp_path), 2 * count * FRAME), admission="all"), count, small) as many:
        data = os.urandom(many.pool.data_bytes)
        many.pool.data[:] = data
        left = list(zip(keys, range(count), strict=True))
        while left:
            left = left[len(many.stack.offloader.offer(left)) :]
            many.settle()
        assert sorted(many.read) == list(range(count))

        many.pool.data[:] = bytes(len(data))
        back = list(range(count - 1, -1, -1))
        done = 0
        while done < count:  # on a busy machine a load this long may be given up on the way: its prefix stays
            over = threading.Event()
            found = many.stack.onboarder.look_up(keys[done:], None)
            load = many.stack.onboarder.load(found, back[done:], lambda _load, over=over: over.set())
            assert load is not None
            assert over.wait(WAIT_S)
            assert load.prefix
            done += load.prefix
        store = many.stack.stores[0]
        assert isinstance(store, Disk)
        runs = list(store._segments.runs(list(range(count))))

        size = many.size
        assert bytes(many.pool.data) == b"".join(data[at : at + size] for at in range(len(data) - size, -1, -size))
        assert sum(map(len, runs)) == count
        assert max(map(len, runs)) <= 1024


def test_pages_of_any_size_and_alignment_make_the_round_trip(tmp_path: Path) -> None:
    for number, layout in enumerate(
        [
            KvLayout(1, 1, 1, 1, "uint8", 1),
            KvLayout(5, 3, 7, 3, "uint8", 1),
            KvLayout(7, 1, 13, 16, "float16", 2),
            LAYOUT,
        ]
    ):
        cache = CacheSettings(host_bytes=1 << 20, disk=DiskTier(str(tmp_path / str(number)), 1 << 20), admission="all")
        keys = chain(number, 9)
        with rig(cache, layout=layout) as one:
            one.store(keys)
        with rig(cache, layout=layout) as two:
            assert two.load(keys) == 9, "from disk"
            assert two.load(keys, 20) == 9, "from host memory, where it was kept on its way"
            assert two.stack.host is not None
            assert len(two.stack.host.ledger) == 9


def test_a_rig_checks_what_it_loads(tmp_path: Path) -> None:
    with rig(disk(tmp_path)) as lying:
        lying.store(KEYS)
        lying.device.write([memoryview(bytes(lying.size))], [40])
        with pytest.raises(AssertionError, match="a wrong block"):
            _load_then_spoil(lying)


def _load_then_spoil(lying: Rig) -> None:
    assert lying.load(KEYS) == 12
    lying.pool.block(3)[5] ^= 1
    found = lying.stack.onboarder.look_up(KEYS, None)
    del found

    class Done:
        prefix, blocks = 12, tuple(range(12))

    lying.verified(KEYS, Done())  # type: ignore[arg-type]
