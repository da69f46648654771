"""How prompts are cut into parts: nothing is lost, and no part is too small to be worth a message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.worker.parts import MOST_PARTS, Part, parts_of

MIB = 1 << 20


@given(
    blocks=st.integers(1, 5000),
    block_bytes=st.integers(1, 4 * MIB),
    part_bytes=st.sampled_from([MIB, 8 * MIB, 128 * MIB]),
    first=st.integers(0, 1000),
)
def test_parts_are_the_whole_in_order(blocks: int, block_bytes: int, part_bytes: int, first: int) -> None:
    pairs = BlockPairs.of(range(blocks), range(blocks, 0, -1))
    size = blocks * block_bytes
    parts = Part(first, pairs, range(3, 7)).cut(size, part_bytes)

    assert [part.first for part in parts] == [first + part.pairs.sources[0] for part in parts]
    assert [block for part in parts for block in part.pairs.sources] == list(pairs.sources)
    assert [block for part in parts for block in part.pairs.destinations] == list(pairs.destinations)
    assert {part.layers for part in parts} == {range(3, 7)}
    counts = [len(part.pairs) for part in parts]
    assert max(counts) - min(counts) <= 1
    assert 1 <= len(parts) <= MOST_PARTS
    assert len(parts) == 1 or size // len(parts) >= part_bytes


def test_a_gibibyte_between_gpus_and_prompts_between_processors() -> None:
    assert parts_of(1024 * MIB, 128 * MIB, 512) == 8
    assert parts_of(255 * MIB, 128 * MIB, 127) == 1
    assert parts_of(20 * MIB, 8 * MIB, 80) == 2
    assert parts_of(10_000 * MIB, 8 * MIB, 5000) == MOST_PARTS
    assert parts_of(100 * MIB, 8 * MIB, 3) == 3
    assert parts_of(0, 8 * MIB, 1) == 1
