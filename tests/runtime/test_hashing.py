"""Block hashes: vectors that other implementations of the scheme publish, and its laws."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.kv.hashing import extend, local_hashes, pack_tokens, sequence_hashes, unpack_tokens

# Tokens 1..12 in blocks of 4, seed 1337.
LOCAL = [14643705804678351452, 16777012769546811212, 483935686894639516]
SEQUENCE = [14643705804678351452, 4945711292740353085, 12583592247330656132]

token_lists = st.lists(st.integers(0, 2**32 - 1), max_size=60)


def test_published_vectors() -> None:
    local = local_hashes(pack_tokens(range(1, 13)), 4)
    assert local == LOCAL
    assert sequence_hashes(local) == SEQUENCE


def test_the_hash_is_xxh3_64() -> None:
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2


def test_tokens_are_packed_as_little_endian_u32() -> None:
    assert pack_tokens([1, 0x01020304, 2**32 - 1]) == bytes([1, 0, 0, 0, 4, 3, 2, 1, 255, 255, 255, 255])


@given(token_lists)
def test_packing_is_undone_by_unpacking(tokens: list[int]) -> None:
    assert unpack_tokens(pack_tokens(tokens)) == tokens


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (9, 2)])
def test_only_full_blocks_have_a_hash(tokens: int, blocks: int) -> None:
    hashes = local_hashes(pack_tokens(range(1, tokens + 1)), 4)
    assert hashes == LOCAL[:blocks]


@given(token_lists, st.integers(1, 8))
def test_a_local_hash_depends_on_its_block_alone(tokens: list[int], block_size: int) -> None:
    whole = local_hashes(pack_tokens(tokens), block_size)
    assert len(whole) == len(tokens) // block_size
    for k, local in enumerate(whole):
        assert local_hashes(pack_tokens(tokens[k * block_size : (k + 1) * block_size]), block_size) == [local]


@given(token_lists, st.integers(1, 8), st.integers(0, 20))
def test_sequence_hashes_may_be_computed_in_parts(tokens: list[int], block_size: int, cut: int) -> None:
    local = local_hashes(pack_tokens(tokens), block_size)
    whole = sequence_hashes(local)
    head = whole[:cut]
    assert head + sequence_hashes(local[cut:], head[-1] if head else None) == whole


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=10, unique=True))
def test_a_sequence_hash_names_all_that_came_before(local: list[int]) -> None:
    swapped = [local[1], local[0], *local[2:]]
    assert not set(sequence_hashes(local)[1:]) & set(sequence_hashes(swapped)[1:])


def test_the_first_block_is_named_by_its_tokens() -> None:
    assert extend(None, 5) == 5
    assert extend(SEQUENCE[0], LOCAL[1]) == SEQUENCE[1]
    assert extend(0, 5) != 5  # a parent whose hash happens to be 0 is still a parent
