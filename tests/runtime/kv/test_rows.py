"""Rows, units and pairs against plain Python over bytes."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.checksums import UNIT_BYTES, digest, unit_rows, units_of
from dynamoc.runtime.kv.transfer.cuts import RunCut, mismatches
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, indices_of
from dynamoc.runtime.kv.transfer.rows import bytes_of, in_place, pick, put, rows_of

LAYOUT = KvLayout(layers=3, heads=1, head_dim=5, block_size=4, dtype="uint8", item_bytes=1)
"""Layers of 40 bytes."""


def filled(blocks: int, seed: int = 1) -> HostPool:
    pool = HostPool(LAYOUT, blocks)
    np.frombuffer(pool.data, np.uint8)[:] = np.random.default_rng(seed).integers(0, 256, pool.data_bytes, np.uint8)
    return pool


@pytest.mark.parametrize("layers", [None, range(1), range(1, 3), range(2, 3)])
@pytest.mark.parametrize("order", [[0, 1, 2], [5, 3, 4], [6], [], [7, 6]])
def test_picked_rows_are_the_bytes_of_their_blocks_and_put_back_whole(layers: range | None, order: list[int]) -> None:
    source, target = filled(8), filled(8, seed=2)
    span, blocks = LAYOUT.span(layers), indices_of(order)
    before = bytes(target.data)

    data = pick(rows_of(source.data, LAYOUT.block_bytes, span), blocks)
    put(rows_of(target.data, LAYOUT.block_bytes, span), blocks, data)

    want = bytearray(before)
    for block in order:
        start = block * LAYOUT.block_bytes + span.start
        want[start : start + span.size] = source.data[start : start + span.size]
    assert bytes(target.data) == bytes(want)


def test_only_one_run_of_bytes_is_in_place() -> None:
    pool = filled(8)
    whole = rows_of(pool.data, LAYOUT.block_bytes, LAYOUT.span(None))
    part = rows_of(pool.data, LAYOUT.block_bytes, LAYOUT.span(range(1)))

    run = in_place(whole, indices_of([2, 3, 4]))
    assert run is not None
    bytes_of(run)[0] ^= 1
    assert pool.data[2 * LAYOUT.block_bytes] == run.view(np.uint8)[0, 0]
    assert in_place(whole, indices_of([2, 4])) is None
    assert in_place(part, indices_of([2, 3])) is None
    assert in_place(part, indices_of([2])) is not None


@pytest.mark.parametrize(
    ("count", "row_bytes", "units"),
    [(0, 64, 0), (1, 64, 1), (8193, 64, 2), (3, 1 << 20, 3), (3, 65536, 3), (40, 65528, 5)],
)
def test_units_cover_all_pairs_once(count: int, row_bytes: int, units: int) -> None:
    found = list(units_of(count, row_bytes))

    assert len(found) == units
    assert [row for unit in found for row in range(unit.start, unit.stop)] == list(range(count))
    assert unit_rows(row_bytes) * row_bytes <= max(UNIT_BYTES, row_bytes)


def test_a_unit_s_checksum_is_of_its_bytes_one_after_another_and_finds_every_flipped_bit() -> None:
    pool, blocks = filled(8), indices_of([5, 0, 6])
    cut = RunCut(rows_of(pool.data, LAYOUT.block_bytes, LAYOUT.span(None)))
    want = xxhash.xxh3_64_intdigest(b"".join(bytes(pool.block(block)) for block in blocks))
    sent = want.to_bytes(8, "little")

    assert digest(cut.pick(blocks)) == want
    assert mismatches(cut, blocks, sent).size == 0
    assert mismatches(cut, blocks, sent[:7]).tolist() == blocks.tolist()
    for bit in range(8 * LAYOUT.block_bytes):
        pool.block(0)[bit // 8] ^= 1 << bit % 8
        assert mismatches(cut, blocks, sent).tolist() == blocks.tolist()
        pool.block(0)[bit // 8] ^= 1 << bit % 8


def test_pairs_say_what_is_wrong_with_them() -> None:
    assert BlockPairs.of([], []).fault(0, 0) == ""
    assert BlockPairs.of([0, 0, 3], [2, 1, 0]).fault(4, 3) == ""
    assert BlockPairs.of([0, 4], [0, 1]).fault(4, 4) == "source block 4 is outside my pool of 4 blocks"
    assert BlockPairs.of([0], [-1]).fault(4, 4) == "destination block -1 is outside a pool of 4 blocks"
    assert BlockPairs.of([0, 1, 2], [3, 3, 3]).fault(4, 4) == "2 of 3 destination blocks are named twice"
    with pytest.raises(ValueError, match="2 sources for 1 destinations"):
        BlockPairs.of([0, 1], [0])
