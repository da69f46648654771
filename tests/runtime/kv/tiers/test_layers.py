"""Layer by layer: a group is there only when it was verified in every block; what is damaged or late never is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tier_kit import WAIT_S, Rig, chain, content, rig

from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.tiers import onboard
from dynamoc.runtime.kv.tiers.device import HostDevice
from dynamoc.runtime.kv.tiers.disk import Disk
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import ALIGN, MOST_GROUPS, page_format
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier

LAYOUT = KvLayout(layers=8, heads=3, head_dim=32, block_size=16, dtype="float32", item_bytes=4)
FORMAT = page_format(LAYOUT, "m")
KEYS = chain("layers", 24)
POISON = 0xAA
FIRST_BLOCK = 30
TIERS = ["host", "disk", "host+disk", "object", "host+object"]


def layered(tiers: str, folder: Path) -> CacheSettings:
    size, wanted = 64 * FORMAT.frame_bytes, tiers.split("+")
    return CacheSettings(
        host_bytes=size if "host" in wanted else None,
        disk=DiskTier(f"{folder}/disk", size) if "disk" in wanted else None,
        object=ObjectTier(f"file://{folder}/objects", size) if "object" in wanted else None,
        admission="all",
    )


class Watched:
    """A load into poisoned blocks that looks, whenever a group is told, at every byte of what is said to be there."""

    def __init__(self, one: Rig, keys: Sequence[object] = KEYS) -> None:
        self.rig = one
        self.over = threading.Event()
        self.told: list[int] = []
        self.wrong: list[str] = []
        self.blocks = range(FIRST_BLOCK, FIRST_BLOCK + len(keys))
        for block in self.blocks:
            one.pool.block(block)[:] = bytes([POISON]) * one.size
        found = one.stack.onboarder.look_up(KEYS, None, overlap=True)
        load = one.stack.onboarder.load(found, self.blocks, lambda _load: self.over.set(), self._arrived)
        assert load is not None
        self.load = load

    def _arrived(self, load: Load) -> None:
        there = load.groups_there
        self.told.append(there)
        self.check(there)

    def check(self, groups: int) -> None:
        """That the first groups of every block are there, to the last byte."""
        end = groups * FORMAT.group_layers * FORMAT.layer_bytes
        for key, block in zip(KEYS, self.blocks, strict=True):
            if bytes(self.rig.pool.block(block)[:end]) != content(key, self.rig.size)[:end]:
                self.wrong.append(f"block {block} within the first {groups} groups")

    def touched(self, place: int, group: int) -> bool:
        """Whether anything was written to a group of a block."""
        size = FORMAT.group_layers * FORMAT.layer_bytes
        return any(
            byte != POISON for byte in self.rig.pool.block(self.blocks[place])[group * size : (group + 1) * size]
        )


def pieces_of(one: Rig) -> Callable[[Callable[[range], object]], None]:
    """Have something called before each piece that is copied, with its layers."""
    lifter = one.stack.onboarder._lifter
    copy = lifter._piece

    def install(before: Callable[[range], object]) -> None:
        def piece(tier: object, chunk: object, layers: range, *rest: object) -> None:
            before(layers)
            copy(tier, chunk, layers, *rest)  # type: ignore[arg-type]

        lifter._piece = piece  # type: ignore[method-assign,assignment]

    return install


def test_groups_of_layers_are_aligned_whatever_heads_a_rank_has() -> None:
    for layers in (1, 2, 7, 30, 61, 80):
        for head_dim, parts in ((16, 2), (64, 2), (576, 1)):
            formats = [
                page_format(KvLayout(layers, count, head_dim, 16, "bfloat16", 2, parts), "m", Heads(0, count, 8))
                for count in (1, 2, 8)
            ]
            assert len({(one.group_layers, one.digest) for one in formats}) == 1, "ranks read each other's pages"
            for one in formats:
                pieces = one.pieces()
                assert [layer for piece in pieces for layer in piece] == list(range(layers))
                assert len(pieces) == one.groups <= MOST_GROUPS
                assert all(one.span(piece).start % ALIGN == 0 for piece in pieces)


@pytest.mark.parametrize("least", [0, 1, 20_000, 50_000, 1 << 30])
def test_pieces_are_whole_groups_of_at_least_so_many_bytes(least: int) -> None:
    pieces = FORMAT.pieces(least)

    assert [layer for piece in pieces for layer in piece] == list(range(LAYOUT.layers))
    assert all(piece.start % FORMAT.group_layers == 0 for piece in pieces)
    assert all(FORMAT.span(piece).size >= min(least, FORMAT.page_bytes) for piece in pieces)


@pytest.mark.usefixtures("by_device")
@pytest.mark.parametrize("tiers", TIERS)
def test_a_group_is_told_when_it_is_there_in_every_block(tiers: str, tmp_path: Path) -> None:
    with rig(layered(tiers, tmp_path), 64, LAYOUT) as one:
        one.store(KEYS)
        one.in_pieces()
        if one.stack.host is not None and "+" in tiers:
            one.stack.host.ledger.clear()
        watched = Watched(one)
        assert watched.over.wait(WAIT_S)
        one.settle()
        watched.check(FORMAT.groups)

        assert not watched.wrong
        assert watched.load.prefix == len(KEYS)
        assert watched.told == sorted(watched.told)
        if "object" not in tiers:
            assert watched.told, "some layers come before others"
        assert one.stack.staging.in_use == 0
        if one.stack.host is not None:
            assert one.stack.host.ledger.match(KEYS) == len(KEYS), "what passed host memory stays there"


@pytest.mark.parametrize("tiers", ["host", "disk", "host+disk"])
@pytest.mark.parametrize("group", [0, 3, 7])
@pytest.mark.parametrize("place", [0, 13, 23])
def test_a_damaged_group_is_never_told(tiers: str, group: int, place: int, by_device: bool, tmp_path: Path) -> None:
    with rig(layered(tiers, tmp_path), 64, LAYOUT) as one:
        one.store(KEYS)
        one.in_pieces()
        at = ALIGN + group * FORMAT.group_layers * FORMAT.layer_bytes + 77
        if tiers == "host":
            assert one.stack.host is not None
            (entry,) = one.stack.host.ledger.pin([KEYS[place].name])
            one.stack.host.frame(entry)[at] ^= 16
            one.stack.host.ledger.unpin([entry])
        else:
            damage_on_disk(one, place, at)
            if one.stack.host is not None:
                one.stack.host.ledger.clear()
        watched = Watched(one)
        assert watched.over.wait(WAIT_S)
        one.settle()
        watched.check(group)

        assert not watched.wrong
        assert by_device or not watched.touched(place, group), "not a byte of it was written"
        assert watched.load.prefix == place
        assert watched.load.groups_there == group
        assert max(watched.told, default=0) <= group
        assert not watched.load.wait(group, 0.0)
        assert one.stack.report().corrupt.total() == 1
        assert one.stack.staging.in_use == 0


def damage_on_disk(one: Rig, place: int, at: int) -> None:
    """Flip a bit of a page, `at` its frame's byte."""
    store = one.stack.stores[0]
    assert isinstance(store, Disk)
    (entry,) = store.ledger.pin([KEYS[place].name])
    descriptor, offset = store._segments._where(entry.slot)
    path = store.folder / f"{entry.slot // store._segments.per_segment}.seg"
    store.ledger.unpin([entry])
    del descriptor
    with path.open("r+b") as file:
        file.seek(offset + at)
        byte = file.read(1)[0]
        file.seek(offset + at)
        file.write(bytes([byte ^ 16]))


def test_whoever_waits_for_a_group_hears_at_once_that_it_will_not_come() -> None:
    with rig(CacheSettings(host_bytes=64 * FORMAT.frame_bytes, admission="all"), 64, LAYOUT) as one:
        one.store(KEYS)
        one.in_pieces()
        go, answers = threading.Event(), []
        pieces_of(one)(lambda layers: None if not layers.start else _wait(go))
        assert one.stack.host is not None
        (entry,) = one.stack.host.ledger.pin([KEYS[5].name])
        one.stack.host.frame(entry)[ALIGN + FORMAT.page_bytes - 1] ^= 1
        one.stack.host.ledger.unpin([entry])
        watched = Watched(one)
        waiting = threading.Thread(target=lambda: answers.append(watched.load.wait(7, WAIT_S)))
        waiting.start()
        assert watched.load.wait(0, WAIT_S)
        assert not watched.load.wait(1, 0.0)
        go.set()
        waiting.join(WAIT_S)

        assert answers == [False]
        assert watched.load.is_short
        assert watched.over.wait(WAIT_S)


@pytest.mark.parametrize("tiers", ["host", "disk", "host+disk"])
def test_a_load_that_is_revoked_between_two_groups_writes_nothing_more(tiers: str, tmp_path: Path) -> None:
    with rig(layered(tiers, tmp_path), 64, LAYOUT) as one:
        one.store(KEYS)
        one.in_pieces()
        if one.stack.host is not None and "+" in tiers:
            one.stack.host.ledger.clear()
        go = threading.Event()
        pieces_of(one)(lambda layers: None if layers.start < 3 else _wait(go))
        watched = Watched(one)
        assert watched.load.wait(2, WAIT_S)
        watched.load.revoke()
        for block in watched.blocks:
            one.pool.block(block)[:] = bytes([POISON]) * one.size
        go.set()
        one.settle()

        assert not any(watched.touched(place, group) for place in range(len(KEYS)) for group in range(FORMAT.groups))
        assert not watched.over.is_set(), "whoever revoked it does not hear of it again"
        assert one.stack.staging.in_use == 0
        if one.stack.host is not None and "+" in tiers:
            assert not len(one.stack.host.ledger), "half a page is none"
        assert one.load(KEYS) == len(KEYS), "nothing was lost below"


def test_a_group_that_hangs_is_given_up_with_its_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onboard, "SHORTEST_DEADLINE_S", 0.2)
    with rig(layered("disk", tmp_path), 64, LAYOUT) as one:
        one.store(KEYS)
        one.in_pieces()
        go = threading.Event()
        pieces_of(one)(lambda layers: None if layers.start < 5 else _wait(go))
        watched = Watched(one)
        assert not watched.load.wait(6, WAIT_S), "its deadline is much sooner than that"
        assert watched.over.wait(WAIT_S)
        there = watched.load.groups_there
        go.set()
        one.settle()

        assert there == watched.load.groups_there <= 5
        assert watched.load.prefix == 0


def test_first_layers_of_every_page_come_before_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostDevice, "threads", 1)  # several may overtake each other
    with rig(CacheSettings(host_bytes=64 * FORMAT.frame_bytes, admission="all"), 64, LAYOUT) as one:
        one.store(KEYS)
        one.in_pieces()
        one.stack.onboarder._batch = 1
        one.stack.host.lane.threads = 24  # type: ignore[union-attr]
        begun: list[int] = []
        go = threading.Event()
        pieces_of(one)(lambda layers: (_wait(go), begun.append(layers.start)))
        watched = Watched(one)
        go.set()
        assert watched.over.wait(WAIT_S)
        one.settle()

        assert len(begun) == len(KEYS) * FORMAT.groups
        assert begun == sorted(begun)


def _wait(event: threading.Event) -> None:
    assert event.wait(WAIT_S)


def test_pages_come_whole_to_whoever_wants_no_pieces() -> None:
    with rig(CacheSettings(host_bytes=64 * FORMAT.frame_bytes, admission="all"), 64, LAYOUT) as one:
        one.store(KEYS)
        seen: list[range] = []
        pieces_of(one)(seen.append)

        assert one.load(KEYS) == len(KEYS)
        assert set(seen) == {range(LAYOUT.layers)}
