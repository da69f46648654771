"""Copies between tiers: buffers, leases, deadlines, corruption; and any order of everything, over real tiers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tier_kit import FRAME, LAYERED, LAYOUT, WAIT_S, Rig, chain, content, disk, host, objects, rig

from dynamoc.runtime.kv.tiers import load as load_module
from dynamoc.runtime.kv.tiers.device import AsItIs
from dynamoc.runtime.kv.tiers.disk import Disk
from dynamoc.runtime.kv.tiers.frames import Staging, StagingTimeoutError
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import page_format
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier

KEYS = chain("prompt", 12)
SENTINEL = b"\x5a"


def test_sixty_four_copies_through_two_buffers(tmp_path: Path) -> None:
    """Prompts of 64 pages, all at once, none of which finds a buffer of its own."""
    prompts = [chain(number, 1) for number in range(64)]
    with rig(disk(tmp_path, 128), blocks=128, staging_buffers=2) as narrow:
        for number, keys in enumerate(prompts):
            narrow.pool.block(number)[:] = content(keys[0], narrow.size)
        for number, keys in enumerate(prompts):
            narrow.stack.offloader.touch(keys)
            assert narrow.stack.offloader.offer([(keys[0], number)]) == [number]
        narrow.settle()
        assert narrow.stack.staging.high_water <= 2
        over = [threading.Event() for _ in prompts]
        loads = []
        for number, keys in enumerate(prompts):
            found = narrow.stack.onboarder.look_up(keys, None)
            loads.append(narrow.stack.onboarder.load(found, [64 + number], lambda _l, n=number: over[n].set()))
        assert all(event.wait(WAIT_S) for event in over)
        narrow.settle()

        assert [narrow.verified(keys, load) for keys, load in zip(prompts, loads, strict=True) if load] == [1] * 64
        assert narrow.stack.staging.in_use == 0


def test_a_buffer_is_lent_again_only_when_nothing_holds_it() -> None:
    staging = Staging(2, 4096, lambda _memory, _row: AsItIs())
    one, two = staging.borrow(2, 1)
    late = one[10:20]
    staging.give_back([one, two])

    assert staging.in_use == 1
    assert staging.stuck == 1
    (again,) = staging.borrow(2, 1)
    with pytest.raises(StagingTimeoutError):
        staging.borrow(1, 0.1)
    late[0] = 7
    del late
    (freed,) = staging.borrow(1, 1)
    staging.give_back([again, freed])

    assert staging.in_use == 0
    staging.close()


class Slow:
    """A disk whose reads wait until they are let go."""

    def __init__(self, store: Disk) -> None:
        self.gate = threading.Event()
        self.reading = threading.Event()
        self._read = store.read
        store.read = self.read  # type: ignore[method-assign]

    def read(self, entries: Sequence[object], pieces: Sequence[memoryview], start: int) -> list[object]:
        self.reading.set()
        assert self.gate.wait(WAIT_S)
        return list(self._read(entries, pieces, start))  # type: ignore[arg-type]


def slow_disk(one: Rig) -> Slow:
    store = one.stack.stores[0]
    assert isinstance(store, Disk)
    return Slow(store)


def test_after_a_load_is_revoked_nothing_writes_its_blocks(tmp_path: Path) -> None:
    with rig(disk(tmp_path)) as one:
        one.store(KEYS)
        slow = slow_disk(one)
        calls: list[Load] = []
        load = one.stack.onboarder.load(one.stack.onboarder.look_up(KEYS, None), range(20, 32), calls.append)
        assert load is not None
        assert slow.reading.wait(WAIT_S)
        load.revoke()
        for block in range(64):
            one.pool.block(block)[:] = SENTINEL * one.size
        slow.gate.set()
        one.settle()

        assert all(bytes(one.pool.block(block)) == SENTINEL * one.size for block in range(64))
        assert not calls, "whoever revoked it does not hear of it again"
        assert load.prefix == 0
        assert one.stack.staging.in_use == 0
        failures = [copied.failures for copied in one.stack.report().copied.values() if copied.failures]
        assert failures == [Counter(cancelled=12)]


def test_a_load_that_hangs_is_over_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(disk(tmp_path)) as one:
        one.store(KEYS)
        slow = slow_disk(one)
        over = threading.Event()
        started = time.monotonic()
        found = one.stack.onboarder.look_up(KEYS, None)
        load = one.stack.onboarder.load(found, range(20, 32), lambda _load: over.set())
        assert load is not None
        assert over.wait(WAIT_S)
        assert time.monotonic() - started < 10
        for block in range(20, 32):
            one.pool.block(block)[:] = SENTINEL * one.size
        slow.gate.set()
        one.settle()

        assert load.prefix == 0
        assert all(bytes(one.pool.block(block)) == SENTINEL * one.size for block in range(20, 32))


def test_revoking_waits_for_the_write_under_way() -> None:
    wrote, go = threading.Event(), threading.Event()

    class Device:
        format = page_format(LAYOUT, "m")

        def write(self, pages: Sequence[memoryview], blocks: Sequence[int], layers: range | None) -> None:
            wrote.set()
            assert go.wait(WAIT_S)

    load = load_module.Load(Device(), [0], 1, time.monotonic() + 100, lambda _load: None)  # type: ignore[arg-type]
    writer = threading.Thread(target=load.deliver, args=(0, [memoryview(b"x")]))
    writer.start()
    assert wrote.wait(WAIT_S)
    revoker = threading.Thread(target=load.revoke)
    revoker.start()
    revoker.join(0.1)
    assert revoker.is_alive(), "a write is under way"
    go.set()
    revoker.join(WAIT_S)
    writer.join(WAIT_S)

    assert not revoker.is_alive()
    assert load.deliver(0, [memoryview(b"x")]) is None


@pytest.mark.usefixtures("by_device")
def test_a_flipped_bit_in_host_memory_ends_the_prefix() -> None:
    for place in range(12):
        with rig(host()) as one:
            one.store(KEYS)
            assert one.stack.host is not None
            (entry,) = one.stack.host.ledger.pin([KEYS[place].name])
            frame = one.stack.host.frame(entry)
            frame[random.Random(place).randrange(4096 + one.size) if place % 2 else 4100] ^= 1 << place % 8
            frame.release()
            one.stack.host.ledger.unpin([entry])
            got = one.load(KEYS)

            assert got == place or (place % 2 and got == 12), "only padding of the header is not used"
            assert got == 12 or one.stack.report().corrupt == {"G2": 1}


@pytest.mark.parametrize("damage", ["flip", "short", "long", "gone", "other"])
def test_a_damaged_object_is_a_miss_and_written_again(damage: str, tmp_path: Path) -> None:
    for place in (0, 5, 11):
        folder = tmp_path / str(place)
        with rig(objects(folder)) as one:
            one.store(KEYS)
            path = next(folder.rglob(f"{KEYS[place].name.hex()}/0-2"))
            data = bytearray(path.read_bytes())
            if damage == "flip":
                data[5000] ^= 4
            elif damage == "other":
                data = bytearray(next(folder.rglob(f"{KEYS[place - 1].name.hex()}/0-2")).read_bytes())
            path.write_bytes({"short": data[:-100], "long": data + b"x"}.get(damage, data))
            if damage == "gone":
                path.unlink()

            assert one.load(KEYS) == place
            assert one.load(KEYS) == place
            one.store(KEYS)
            assert one.load(KEYS) == 12


def test_objects_are_shared_and_stored_once(tmp_path: Path) -> None:
    with rig(objects(tmp_path)) as one, rig(objects(tmp_path)) as other:
        one.store(KEYS)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("0-2")}
        other.store(KEYS)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("0-2")} == before
        other.stack.stores[0].refresh()

        assert other.load(KEYS) == 12


def test_an_object_store_keeps_to_its_size(tmp_path: Path) -> None:
    with rig(objects(tmp_path, 16)) as one:
        for number in range(6):
            one.store(chain(number, 8))
        one.settle()

        assert len(list(tmp_path.rglob("0-2"))) <= 16
        assert one.load(chain(5, 8)) == 8


def test_a_read_only_store_is_off_for_a_while_and_says_so(tmp_path: Path) -> None:
    with rig(CacheSettings(object=ObjectTier("s3://bucket/kv"), admission="all")) as one:
        one.store(KEYS)
        report = one.stack.report()

        assert report.levels[0].is_up is False
        assert one.load(KEYS) == 0


@pytest.mark.parametrize("tier", ["host", "disk", "object"])
def test_a_tier_without_room_for_a_page_is_an_error(tier: str, tmp_path: Path) -> None:
    size = FRAME - 1
    cache = {
        "host": CacheSettings(host_bytes=size),
        "disk": CacheSettings(disk=DiskTier(str(tmp_path), size)),
        "object": CacheSettings(object=ObjectTier(f"file://{tmp_path}", size)),
    }[tier]

    with pytest.raises(ValueError, match=f"too small for a single page: one takes {FRAME} bytes"):
        Rig(cache)


# ---- anything in any order ---------------------------------------------------------------------------------

STEPS: Counter[str] = Counter()
STEM = chain("stem", 4)
PROMPTS = [STEM, chain("a", 4, STEM), chain("b", 3, STEM), chain("c", 6), chain("d", 2)]
PROMPTS = [STEM, [*STEM, *PROMPTS[1]], [*STEM, *PROMPTS[2]], PROMPTS[3], PROMPTS[4]]


class AnyOrder(RuleBasedStateMachine):
    """Store, load, lose, damage, restart: what comes back is always right, and every block is given back once."""

    @initialize(
        tiers=st.sampled_from(["host", "disk", "object", "host+disk", "host+object", "disk+object", "all"]),
        pages=st.integers(3, 12),
        frequent=st.booleans(),
        buffers=st.integers(2, 4),
        layered=st.booleans(),
    )
    def start(self, tiers: str, pages: int, frequent: bool, buffers: int, layered: bool) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.layout = LAYERED if layered else LAYOUT
        size = pages * page_format(self.layout, "m").frame_bytes
        every = tiers == "all"
        self.cache = CacheSettings(
            host_bytes=size if every or "host" in tiers else None,
            disk=DiskTier(f"{self.folder.name}/disk", 2 * size) if every or "disk" in tiers else None,
            object=ObjectTier(f"file://{self.folder.name}/objects", 4 * size) if every or "object" in tiers else None,
            admission="frequent" if frequent else "all",
        )
        self.buffers = buffers
        self.rig = self.make()

    def make(self) -> Rig:
        made = Rig(self.cache, layout=self.layout, staging_buffers=self.buffers)
        if self.layout is LAYERED:
            made.in_pieces()
        return made

    @rule(prompt=st.sampled_from(PROMPTS))
    def store(self, prompt: list) -> None:
        STEPS["store"] += 1
        self.rig.store(prompt)

    @rule(prompt=st.sampled_from(PROMPTS), first=st.integers(0, 40))
    def load(self, prompt: list, first: int) -> None:
        STEPS["load"] += 1
        STEPS["blocks verified"] += self.rig.load(prompt, first)
        self.rig.settle()

    @rule(prompts=st.lists(st.sampled_from(PROMPTS), min_size=2, max_size=5), revoked=st.integers(0, 4))
    def load_many(self, prompts: list, revoked: int) -> None:
        """Side by side, one of them taken back at once."""
        STEPS["load_many"] += 1
        over = threading.Semaphore(0)
        loads = []
        for number, prompt in enumerate(prompts):
            found = self.rig.stack.onboarder.look_up(prompt, None)
            blocks = range(number * 12, number * 12 + len(prompt))
            load = self.rig.stack.onboarder.load(found, blocks, lambda _load: over.release(), self.rig.arrived)
            if load is None:
                continue
            if number == revoked:
                load.revoke()
                for block in blocks:
                    self.rig.pool.block(block)[:] = SENTINEL * self.rig.size
            loads.append((number, prompt, load))
        self.rig.settle()
        for number, prompt, load in loads:
            if number == revoked:
                assert all(bytes(self.rig.pool.block(b)) == SENTINEL * self.rig.size for b in load.blocks)
            else:
                STEPS["blocks verified"] += self.rig.verified(prompt, load)

    @rule(seed=st.integers(0, 2**32))
    def damage(self, seed: int) -> None:
        """Flip a bit of some file, wherever it is."""
        STEPS["damage"] += 1
        rng = random.Random(seed)
        files = sorted(p for p in Path(self.folder.name).rglob("*") if p.is_file() and p.stat().st_size)
        if files:
            with rng.choice(files).open("r+b") as file:
                at = rng.randrange(Path(file.name).stat().st_size)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << rng.randrange(8)]))

    @rule()
    def damage_host(self) -> None:
        STEPS["damage"] += 1
        one = self.rig.stack.host
        if one is not None and (entries := one.ledger.pin([STEM[0].name])):
            one.frame(entries[0])[4096 + 3] ^= 8
            one.ledger.unpin(entries)

    @rule()
    def restart(self) -> None:
        STEPS["restart"] += 1
        self.rig.close()
        self.rig = self.make()

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.settle()
            assert self.rig.stack.staging.in_use == 0
            self.rig.close()
            self.folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
assert LAYOUT.block_bytes > 1000, "flipped bits must be able to hit a page"


def test_a_full_line_takes_a_prefix_and_the_rest_when_it_is_offered_again(tmp_path: Path) -> None:
    """Whoever offers more than the line takes offers the rest later; nothing is lost, and nothing hangs."""
    keys = chain("long", 400)
    size = 8 * FRAME
    with rig(CacheSettings(disk=DiskTier(str(tmp_path), 100 * size), admission="all"), blocks=400) as one:
        one.stack.offloader._batch = 1
        for key, block in zip(keys, range(400), strict=True):
            one.pool.block(block)[:] = content(key, one.size)
        left, rounds = list(zip(keys, range(400), strict=True)), 0
        deadline = time.monotonic() + WAIT_S
        while left and time.monotonic() < deadline:
            taken = one.stack.offloader.offer(left)
            assert taken == [block for _, block in left[: len(taken)]]
            left, rounds = left[len(taken) :], rounds + 1
        one.settle()

        assert rounds > 1
        assert one.load(keys) == 400
