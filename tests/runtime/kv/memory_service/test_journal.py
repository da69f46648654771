"""A journal says of a killed writer's blocks no more than is true: by ending between any two bytes that it stores."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.kv.memory_service.journal import WRITERS, Contents, Journal, JournalError, Record

BLOCKS = 6
BLOCK_SIZE = 3
SIZE = Journal.size(BLOCKS, BLOCK_SIZE)


def record(seed: int) -> Record:
    chance = random.Random(seed)
    return Record(chance.choice([None, chance.randbytes(16)]), chance.randbytes(4 * BLOCK_SIZE), chance.randbytes(16))


def journal(data: bytearray) -> Journal:
    return Journal(memoryview(data), BLOCKS, BLOCK_SIZE)


class Logged(Journal):
    """Writes down every store, in order."""

    def __init__(self, data: bytearray) -> None:
        super().__init__(memoryview(data), BLOCKS, BLOCK_SIZE)
        self.stores: list[tuple[int, bytes]] = []

    def _write(self, start: int, data: bytes) -> None:
        self.stores.append((start, data))
        super()._write(start, data)


changes = st.tuples(st.sampled_from(["store", "erase", "lend"]), st.integers(0, BLOCKS - 1), st.integers(0, 1 << 32))


def apply(made: Journal, truth: dict[int, Record | str], change: tuple[str, int, int]) -> None:
    """As the block manager does: what holds something is erased before it is stored or lent again."""
    what, block, seed = change
    if what == "erase" or block in truth:
        made.erase([block])
        truth.pop(block, None)
    if what == "store":
        made.store(block, record(seed))
        truth[block] = record(seed)
    elif what == "lend":
        made.lend([block])
        truth[block] = "lent"


def assert_says(contents: Contents, truth: dict[int, Record | str]) -> None:
    assert contents.records == {block: known for block, known in truth.items() if isinstance(known, Record)}
    assert contents.held_back == {block for block, known in truth.items() if known == "lent"}


@given(st.lists(changes, max_size=20))
def test_what_was_recorded_is_read(done: list[tuple[str, int, int]]) -> None:
    data, truth = bytearray(SIZE), {}
    made = journal(data)
    for change in done:
        apply(made, truth, change)

    assert_says(journal(data).read(), truth)
    assert journal(data).read().torn == 0


@given(st.lists(changes, max_size=8), changes, st.data())
def test_a_change_that_is_cut_off_is_there_or_not_and_nothing_else_is(
    done: list[tuple[str, int, int]], last: tuple[str, int, int], data: st.DataObject
) -> None:
    memory, truth = bytearray(SIZE), {}
    for change in done:
        apply(journal(memory), truth, change)
    logged, after = Logged(bytearray(memory)), dict(truth)
    apply(logged, after, last)
    # All stores up to one, and of that any of its bytes, in whatever order the processor makes them.
    cut = data.draw(st.integers(0, len(logged.stores) - 1) if logged.stores else st.just(0))
    for start, stored in logged.stores[:cut]:
        memory[start : start + len(stored)] = stored
    for start, stored in logged.stores[cut : cut + 1]:
        for index in data.draw(st.sets(st.integers(0, len(stored) - 1))):
            memory[start + index] = stored[index]
    contents = journal(memory).read()

    block = last[1]
    for other in set(range(BLOCKS)) - {block}:
        assert contents.records.get(other) == (truth[other] if isinstance(truth.get(other), Record) else None)
        assert (other in contents.held_back) == (truth.get(other) == "lent")
    assert contents.records.get(block) in (None, truth.get(block), after.get(block))


@given(st.integers(0, 1 << 32), st.integers(0, Journal.size(1, BLOCK_SIZE) * 8 - 1))
def test_a_bit_that_flips_in_a_record_costs_the_record(seed: int, bit: int) -> None:
    data = bytearray(SIZE)
    journal(data).store(0, record(seed))
    stride = Journal.size(1, BLOCK_SIZE) - Journal.size(0, BLOCK_SIZE)
    place = Journal.size(0, BLOCK_SIZE) + bit // 8 % stride
    data[place] ^= 1 << bit % 8

    contents = journal(data).read()

    assert not contents.records
    assert contents.held_back == {0}
    assert contents.torn == 1


@given(st.integers(0, 1 << 32), st.sampled_from([1, 3, 5]))
def test_a_record_is_good_for_its_own_block_only(seed: int, other: int) -> None:
    data = bytearray(SIZE)
    journal(data).store(0, record(seed))
    stride = Journal.size(1, BLOCK_SIZE) - Journal.size(0, BLOCK_SIZE)
    start = Journal.size(0, BLOCK_SIZE)
    data[start + other * stride : start + (other + 1) * stride] = data[start : start + stride]

    assert set(journal(data).read().records) == {0}


def test_writers_are_known_until_they_are_dismissed() -> None:
    data = bytearray(SIZE)
    made = journal(data)
    for writer in (b"one", b"another", b"one", b"a third"):
        made.admit(writer)
    assert journal(data).read().writers == (b"one", b"another", b"a third")

    made.dismiss(b"another")
    made.dismiss(b"nobody")
    made.admit(b"a fourth, with a longer name")

    assert set(journal(data).read().writers) == {b"one", b"a third", b"a fourth, with a longer name"}


def test_more_writers_than_there_is_room_for_spoil_it() -> None:
    data = bytearray(SIZE)
    for number in range(WRITERS):
        journal(data).admit(b"writer %d" % number)
    assert len(journal(data).read().writers) == WRITERS
    journal(data).admit(b"one more")

    with pytest.raises(JournalError, match="lost count"):
        journal(data).read()


def test_a_writer_too_long_to_be_recorded_spoils_it() -> None:
    data = bytearray(SIZE)
    journal(data).admit(b"x" * 300)

    with pytest.raises(JournalError, match="lost count"):
        journal(data).read()


@given(st.binary(min_size=1, max_size=200), st.integers(0, 255 * 8))
def test_a_damaged_writer_is_not_overlooked(writer: bytes, bit: int) -> None:
    data = bytearray(SIZE)
    journal(data).admit(writer)
    used = 2 + len(writer) + 8
    data[256 + bit // 8 % used] ^= 1 << bit % 8

    with pytest.raises(JournalError, match="half written, or damaged"):
        journal(data).read()
    journal(data).admit(b"another")
    with pytest.raises(JournalError, match="lost count"):
        journal(data).read()
