"""The block manager alone: sharing, eviction order, events, quarantine, and books that notice a mistake."""

from __future__ import annotations

import pytest

from dynamoc.runtime.engines.native.blocks import BlockManager, IntegrityError
from dynamoc.runtime.kv.hashing import local_hashes, pack_tokens, sequence_hashes
from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored

PROMPT = list(range(100, 110))  # two full blocks of four and a half


def fill(blocks: BlockManager, tokens: list[int]) -> list[int]:
    """Allocate, as if computed, register."""
    allocation = blocks.allocate(tokens)
    assert allocation is not None
    blocks.register(tokens, allocation[0], len(tokens))
    return allocation[0]


def test_a_prefix_is_shared_while_in_use_and_after():
    blocks = BlockManager(8, 4)
    first = fill(blocks, PROMPT)
    second, resident = blocks.allocate([*PROMPT, 1, 2, 3]) or ([], 0)

    assert resident == 2
    assert second[:2] == first[:2]
    assert not set(second[2:]) & set(first)
    blocks.release(first)
    blocks.release(second)
    assert blocks.match(PROMPT) == first[:2]
    assert (blocks.active, blocks.cached, blocks.available) == (0, 2, 8)


def test_the_last_token_is_never_taken_from_the_cache():
    blocks = BlockManager(8, 4)
    fill(blocks, PROMPT[:8])

    assert len(blocks.match(PROMPT[:8])) == 1
    assert len(blocks.match(PROMPT[:9])) == 2
    assert blocks.match(PROMPT[:1]) == []


def test_equal_tokens_after_another_prefix_are_another_block():
    blocks = BlockManager(8, 4)
    fill(blocks, [1, 1, 1, 1, 7, 7, 7, 7])

    assert blocks.match([2, 2, 2, 2, 7, 7, 7, 7, 0]) == []
    assert blocks.match([7, 7, 7, 7, 0]) == []


def test_allocation_is_all_or_nothing():
    blocks = BlockManager(4, 4)
    held = fill(blocks, PROMPT)
    blocks.take_events()

    assert blocks.allocate(list(range(12))) is None
    assert blocks.allocate([1, 2], spare=1) is None
    assert (blocks.available, blocks.active) == (1, 3)
    assert blocks.take_events() == []
    blocks.check_integrity([held])


def test_unused_shared_blocks_are_not_counted_twice():
    blocks = BlockManager(3, 4)
    blocks.release(fill(blocks, PROMPT))

    assert blocks.allocate([*PROMPT, *range(3)]) is None  # two cached ones are matched, two more are needed
    allocation = blocks.allocate(PROMPT)
    assert allocation is not None
    assert allocation[1] == 2


def test_the_longest_unused_leaf_goes_first():
    blocks = BlockManager(4, 2)
    blocks.release(fill(blocks, [1, 2, 3, 4, 5, 6]))
    blocks.release(fill(blocks, [7, 8]))
    blocks.take_events()
    hashes = sequence_hashes(local_hashes(pack_tokens([1, 2, 3, 4, 5, 6]), 2))

    taken: list[int] = []
    for expected in reversed(hashes):
        assert blocks.extend(taken)
        assert blocks.take_events() == [BlocksRemoved((expected,))]
    assert blocks.match([7, 8, 0])
    assert blocks.extend(taken)
    assert not blocks.extend(taken)
    assert len(set(taken)) == 4


def test_events_carry_the_hashes_routers_compute():
    blocks = BlockManager(8, 4)
    fill(blocks, PROMPT[:8])
    longer = [*PROMPT[:8], 1, 2, 3, 4]
    fill(blocks, longer)

    first, second = blocks.take_events()
    local = local_hashes(pack_tokens(longer), 4)
    chained = sequence_hashes(local)
    assert isinstance(first, BlocksStored)
    assert isinstance(second, BlocksStored)
    assert [(block.sequence_hash, block.local_hash) for block in (*first.blocks, *second.blocks)] == [
        *zip(chained, local, strict=True)
    ]
    assert (first.parent, second.parent) == (None, chained[1])


def test_what_two_sequences_computed_at_once_is_kept_once():
    blocks = BlockManager(8, 4)
    one, two = blocks.allocate(PROMPT), blocks.allocate(PROMPT)
    assert one is not None
    assert two is not None
    assert not set(one[0]) & set(two[0])
    blocks.register(PROMPT, one[0], 10)
    blocks.register(PROMPT, two[0], 10)

    assert one[0][:2] == two[0][:2]
    assert blocks.active == 4
    assert len(blocks.take_events()) == 1
    blocks.check_integrity([one[0], two[0]])


def test_a_duplicate_in_the_middle_continues_the_shared_chain():
    blocks = BlockManager(16, 2)
    long = blocks.allocate([1, 2, 3, 4, 5, 6, 7])
    assert long is not None
    fill(blocks, [1, 2, 3, 4])
    blocks.take_events()
    blocks.register([1, 2, 3, 4, 5, 6, 7], long[0], 6)

    (stored,) = blocks.take_events()
    assert isinstance(stored, BlocksStored)
    assert len(stored.blocks) == 1
    assert stored.parent == sequence_hashes(local_hashes(pack_tokens([1, 2, 3, 4]), 2))[-1]


def test_without_prefix_caching_nothing_is_kept_or_told():
    blocks = BlockManager(8, 4, prefix_caching=False)
    blocks.release(fill(blocks, PROMPT))

    assert blocks.match(PROMPT) == []
    assert blocks.take_events() == []
    assert blocks.resident() == []
    assert blocks.cached == 0


def test_quarantined_blocks_come_back_only_when_readmitted():
    blocks = BlockManager(4, 4)
    allocation = blocks.allocate(PROMPT)
    assert allocation is not None
    blocks.quarantine(allocation[0])

    assert (blocks.available, blocks.quarantined, blocks.active) == (1, 3, 0)
    assert blocks.allocate(PROMPT) is None
    blocks.check_integrity([])
    blocks.readmit(allocation[0])
    assert (blocks.available, blocks.quarantined) == (4, 0)
    blocks.check_integrity([])


def test_resident_names_parents_before_children():
    blocks = BlockManager(16, 2)
    for tokens in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9, 9, 8, 8], [7, 7]):
        blocks.release(fill(blocks, tokens))

    known: set[int | None] = {None}
    for event in blocks.resident():
        assert isinstance(event, BlocksStored)
        assert event.parent in known
        known.update(block.sequence_hash for block in event.blocks)
    assert len(known) == 1 + 6
    assert blocks.take_events() != []


@pytest.mark.parametrize("mistake", ["leak", "double", "stranger"])
def test_integrity_notices(mistake: str):
    blocks = BlockManager(4, 4)
    held = fill(blocks, PROMPT)
    owners = {"leak": [], "double": [held, held], "stranger": [held, [3]]}[mistake]

    with pytest.raises(IntegrityError, match="is counted"):
        blocks.check_integrity(owners)


def test_a_pool_without_blocks_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        BlockManager(0, 4)
