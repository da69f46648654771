"""Blocks that stores read where they are: the same pages as over a buffer, and in use until every store is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tier_kit import LAYOUT, WAIT_S, Rig, chain, disk, objects, rig

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.tiers.disk import Disk
from dynamoc.runtime.kv.tiers.page import ALIGN
from dynamoc.runtime.manifest import CacheSettings, DiskTier

WHOLE = KvLayout(layers=4, heads=2, head_dim=16, block_size=8, dtype="float32", item_bytes=4)
"""Blocks that O_DIRECT takes as they are."""
KEYS = chain("prompt", 12)


def vias(one: Rig) -> set[str]:
    return {path.via for path in one.stack.report().copied if path.operation == "offload"}


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*.seg")))


@pytest.mark.parametrize(("layout", "way"), [(WHOLE, ""), (LAYOUT, "bounce+")], ids=["lent", "bounced"])
def test_metrics_say_whether_there_was_a_detour(layout: KvLayout, way: str, tmp_path: Path) -> None:
    for cache, via in ((disk(tmp_path / "disk", 256), "file"), (objects(tmp_path / "objects"), "object")):
        with rig(cache, layout=layout) as one:
            assert len(one.store(KEYS)) == 12
            assert vias(one) == {way + via}
            assert one.load(KEYS, 20) == 12


def test_a_lent_page_is_stored_as_a_bounced_one_is(tmp_path: Path) -> None:
    for lends in (True, False):
        with rig(disk(tmp_path / str(lends), 256), layout=WHOLE) as one:
            one.device._lends = lends
            one.store(KEYS)
            assert vias(one) == {"file" if lends else "bounce+file"}

    assert WHOLE.block_bytes % ALIGN == 0
    assert stored(tmp_path / "True") == stored(tmp_path / "False") != b""


def test_lent_blocks_are_in_use_until_they_are_written(tmp_path: Path) -> None:
    with rig(disk(tmp_path, 256), layout=WHOLE) as one:
        store = one.stack.stores[0]
        assert isinstance(store, Disk)
        write, writing, gate = store.write, threading.Event(), threading.Event()

        def late(*arguments: Sequence[object]) -> object:
            writing.set()
            assert gate.wait(WAIT_S)
            return write(*arguments)  # type: ignore[arg-type]

        store.write = late  # type: ignore[assignment,method-assign]
        taken = one.stack.offloader.offer(list(zip(KEYS, range(12), strict=True)))
        assert taken == list(range(12))
        assert writing.wait(WAIT_S)
        assert one.read == []
        gate.set()
        one.settle()

        assert sorted(one.read) == taken


def test_lent_blocks_come_back_when_nothing_can_be_written(tmp_path: Path) -> None:
    with rig(CacheSettings(disk=DiskTier(str(tmp_path), 1 << 20), admission="all"), layout=WHOLE) as one:
        store = one.stack.stores[0]
        assert isinstance(store, Disk)
        store._segments.grow(0)
        os.close(store._segments._files[0])
        store._segments._files[0] = os.open(next(tmp_path.rglob("*.seg")), os.O_RDONLY)

        assert len(one.store(KEYS)) == 12, "each was taken, and given back"
        assert len(store.ledger) == 0
        assert one.load(KEYS) == 0
