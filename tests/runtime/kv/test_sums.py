"""Sums that say whether bytes are the same, however they were cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.runtime.kv.transfer.sums import WORD_BYTES, Sums, combine, sums_of


def test_sums_by_hand() -> None:
    assert sums_of(np.array([5, 7, 11], "<u4").tobytes()) == Sums(23, 5 + 14 + 33)
    assert sums_of(b"\x01\x02\x03\x04\x05") == Sums(0x04030201 + 5, 0x04030201 + 10)
    assert sums_of(b"") == Sums(0, 0)


def test_sums_wrap() -> None:
    words = np.full(1 << 20, 0xFFFFFFFF, "<u4")
    count = words.size
    assert sums_of(words.tobytes()) == Sums(0xFFFFFFFF * count, 0xFFFFFFFF * count * (count + 1) // 2 % 2**64)


@settings(deadline=None)
@given(st.binary(min_size=64, max_size=512), st.lists(st.integers(1, 120), max_size=6))
def test_the_sums_of_a_whole_follow_from_its_parts(run: bytes, cuts: list[int]) -> None:
    edges = sorted({0, *(cut for cut in cuts if cut * WORD_BYTES < len(run))})
    ends = [edge * WORD_BYTES for edge in edges[1:]] + [len(run)]
    parts = [(edge, sums_of(run[edge * WORD_BYTES : end])) for edge, end in zip(edges, ends, strict=True)]

    assert combine(reversed(parts)) == sums_of(run)


@given(st.binary(min_size=8, max_size=256), st.data())
def test_one_flipped_bit_changes_both_sums(run: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(run) - 1))
    flipped = bytearray(run)
    flipped[bit // 8] ^= 1 << bit % 8

    assert sums_of(bytes(flipped)).plain != sums_of(run).plain
    assert sums_of(bytes(flipped)).weighted != sums_of(run).weighted


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 60), (10, 11)])
def test_exchanged_words_change_the_weighted_sum(first: int, second: int) -> None:
    words = np.random.default_rng(1).integers(0, 2**32, 64, np.uint32)
    exchanged = words.copy()
    exchanged[[first, second]] = words[[second, first]]

    assert sums_of(exchanged.tobytes()).plain == sums_of(words.tobytes()).plain
    assert sums_of(exchanged.tobytes()).weighted != sums_of(words.tobytes()).weighted
