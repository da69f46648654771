"""A page is refused unless every bit of it is right and it is of this model; ranks read each other's heads."""

from __future__ import annotations

import random

import pytest
from tier_kit import LAYOUT, chain

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.tiers.device import HostDevice
from dynamoc.runtime.kv.tiers.page import (
    ALIGN,
    Heads,
    PageError,
    PageFormat,
    assemble,
    check,
    page_format,
    page_name,
    page_of,
    read_header,
    seal,
)

KEY = chain("page", 2)[1]


def frame(format_: PageFormat, fill: bytes | None = None) -> memoryview:
    view = memoryview(bytearray(format_.frame_bytes))
    page_of(format_, view)[:] = fill or random.Random(1).randbytes(format_.page_bytes)
    seal(format_, KEY, view)
    return view


def test_a_sealed_frame_says_what_it_is() -> None:
    format_ = page_format(LAYOUT, "m")
    view = frame(format_)

    assert read_header(format_, view)[:2] == (KEY, Heads(0, 2, 2))
    check(format_, KEY.name, view)


def test_every_flipped_bit_of_header_and_page_is_noticed() -> None:
    format_ = page_format(LAYOUT, "m")
    view = frame(format_)
    flips = 0
    for position in range(ALIGN + format_.page_bytes):
        for bit in range(8) if position < 256 or position >= ALIGN else (position % 8,):
            view[position] ^= 1 << bit
            with pytest.raises(PageError):
                check(format_, KEY.name, view)
            view[position] ^= 1 << bit
            flips += 1

    check(format_, KEY.name, view)
    assert flips > 10_000


@pytest.mark.parametrize("change", ["model", "layers", "block_size", "dtype", "head_dim"])
def test_a_page_of_another_model_is_refused(change: str) -> None:
    facts = {"layers": 2, "heads": 2, "head_dim": 8, "block_size": 4, "dtype": "float32", "item_bytes": 4}
    other = facts | {"layers": 1, "block_size": 8} if change == "layers" else dict(facts)
    other |= {"block_size": {"block_size": 8}, "dtype": {"dtype": "int32"}, "head_dim": {"head_dim": 16}}.get(
        change, {}
    )
    ours = page_format(KvLayout(**facts), "m")
    theirs = page_format(KvLayout(**other), "another" if change == "model" else "m")
    view = frame(theirs)

    with pytest.raises(PageError):
        check(ours, KEY.name, view)


@pytest.mark.parametrize("writers", [1, 2, 4, 8])
@pytest.mark.parametrize("readers", [1, 2, 4, 8])
def test_ranks_of_any_count_read_what_ranks_of_any_other_wrote(writers: int, readers: int) -> None:
    total, layers = 8, 3
    whole = random.Random(7).randbytes(layers * 2 * total * 4 * 8 * 4)

    def device(ranks: int, rank: int) -> tuple[HostPool, HostDevice]:
        count = total // ranks
        layout = KvLayout(layers, count, 8, 4, "float32", 4)
        pool = HostPool(layout, 1)
        return pool, HostDevice(pool, page_format(layout, "m", Heads(rank * count, count, total)))

    def shard(ranks: int, rank: int) -> bytes:
        run, count = 4 * 8 * 4, total // ranks
        rows = [whole[row * total * run : (row + 1) * total * run] for row in range(layers * 2)]
        return b"".join(row[rank * count * run : (rank + 1) * count * run] for row in rows)

    frames = []
    for rank in range(writers):
        pool, from_device = device(writers, rank)
        pool.block(0)[:] = shard(writers, rank)
        view = memoryview(bytearray(from_device.format.frame_bytes))
        from_device.read([0], [page_of(from_device.format, view)])
        seal(from_device.format, KEY, view)
        frames.append(view)
        from_device.close()
        pool.close()
    for rank in range(readers):
        pool, to_device = device(readers, rank)
        view = memoryview(bytearray(to_device.format.frame_bytes))
        assemble(to_device.format, KEY, frames, view)
        check(to_device.format, KEY.name, view)
        to_device.write([page_of(to_device.format, view)], [0])

        assert bytes(pool.block(0)) == shard(readers, rank)
        to_device.close()
        pool.close()


def test_heads_that_nobody_wrote_are_missed() -> None:
    half = page_format(KvLayout(3, 1, 8, 4, "float32", 4), "m", Heads(0, 1, 2))
    whole = page_format(LAYOUT, "m")

    with pytest.raises(PageError, match="heads \\[1\\]"):
        assemble(whole, KEY, [frame(half)], memoryview(bytearray(whole.frame_bytes)))


def test_names_depend_on_every_token_before() -> None:
    assert len({page_name(None, b"a"), page_name(None, b"b"), page_name(page_name(None, b"a"), b"b")}) == 3
