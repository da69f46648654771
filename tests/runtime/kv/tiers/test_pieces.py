"""The addresses that a GPU's copies are given, tried in host memory: they move what a CPU worker moves, and no more."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import numpy as np
import pytest

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.tiers.device import AsItIs, HostDevice
from dynamoc.runtime.kv.tiers.frames import Frames
from dynamoc.runtime.kv.tiers.page import page_format, page_of
from dynamoc.runtime.kv.tiers.pieces import Pieces, down, up

LAYOUT = KvLayout(layers=5, heads=3, head_dim=24, block_size=7, dtype="float16", item_bytes=2)
FORMAT = page_format(LAYOUT, "m")
BLOCKS = 40
ORDER: list[int] = np.random.default_rng(3).permutation(BLOCKS).tolist()


def move(pieces: Pieces, most_bytes: int) -> int:
    """What a copy engine does with them; in how many turns."""
    turns = 0
    for part in pieces.parts(most_bytes):
        turns += 1
        for to, from_ in zip(part.to.tolist(), part.from_.tolist(), strict=True):
            ctypes.memmove(to, from_, part.size)
    return turns


def filled(pool: HostPool, value: int | None = None) -> np.ndarray:
    """Fill a pool with a byte, or at random; its blocks."""
    pool.data[:] = os.urandom(pool.data_bytes) if value is None else bytes([value]) * pool.data_bytes
    return np.frombuffer(pool.data, np.uint8).reshape(BLOCKS, -1)


def pages_in(frames: Frames) -> list[memoryview]:
    return [page_of(FORMAT, frames.view(number)) for number in range(BLOCKS)]


@pytest.mark.parametrize(("most_bytes", "turns"), [(1, BLOCKS), (3 * FORMAT.page_bytes + 5, 14), (1 << 30, 1)])
def test_blocks_come_down_as_from_a_cpu_worker(most_bytes: int, turns: int) -> None:
    pool = HostPool(LAYOUT, BLOCKS)
    filled(pool)
    device = HostDevice(pool, FORMAT)
    ours, theirs = (Frames(BLOCKS, FORMAT.frame_bytes, lambda _memory, _row: AsItIs()) for _ in range(2))

    assert move(down(FORMAT, pool.address, ORDER, pages_in(ours)), most_bytes) == turns
    device.read(ORDER, pages_in(theirs))
    assert pages_in(ours) == pages_in(theirs)
    assert not any(any(ours.view(number)[:4096]) for number in range(BLOCKS)), "no header was touched"


@pytest.mark.parametrize("layers", [None, range(5), range(1), range(1, 3), range(4, 5)])
def test_pages_and_layers_of_them_go_up_to_their_places_only(layers: range | None) -> None:
    sent, got, wanted = (HostPool(LAYOUT, BLOCKS) for _ in range(3))
    content, _, _ = filled(sent), filled(got, 0xA5), filled(wanted, 0xA5)
    frames = Frames(BLOCKS, FORMAT.frame_bytes, lambda _memory, _row: AsItIs())
    HostDevice(sent, FORMAT).read(range(BLOCKS), pages_in(frames))
    span = FORMAT.span(layers or range(LAYOUT.layers))
    pages: Sequence[memoryview] = [page[span.start : span.end] for page in pages_in(frames)[:30]]
    move(up(FORMAT, got.address, ORDER[:30], pages, layers), 1 << 14)
    HostDevice(wanted, FORMAT).write(pages, ORDER[:30], layers)

    assert bytes(got.data) == bytes(wanted.data)
    arrived = np.frombuffer(got.data, np.uint8).reshape(BLOCKS, -1)
    assert (arrived[ORDER[:30], span.start : span.end] == content[:30, span.start : span.end]).all()
    assert (arrived[ORDER[30:]] == 0xA5).all()


def test_nothing_to_copy_is_no_turn() -> None:
    assert not list(down(FORMAT, 4096, [], []).parts(1 << 20))
