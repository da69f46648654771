"""The prefix index against a model that keeps every worker's blocks as plain sets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dynamoc.runtime.plane.messages import BlocksCleared, BlocksRemoved, BlocksStored, StoredBlock
from dynamoc.runtime.router.index import TIERS, PrefixIndex

WORKERS = ("a", "b", "c")
Path = tuple[int, ...]

# Three local hashes and short prompts: prefixes collide all the time, and one local hash is at many depths.
paths = st.lists(st.integers(1, 3), min_size=1, max_size=6).map(tuple)
workers = st.sampled_from(WORKERS)
tiers = st.sampled_from(TIERS)


def name(worker: str, path: Path) -> int:
    """What a worker calls a block: every worker has its own way, as engines do."""
    return hash((worker, path))


def event(worker: str, path: Path, first: int = 0, tier: str = "G1") -> BlocksStored:
    """Store the blocks of `path` from position `first` on."""
    blocks = tuple(StoredBlock(name(worker, path[: depth + 1]), path[depth]) for depth in range(first, len(path)))
    return BlocksStored(blocks, name(worker, path[:first]) if first else None, tier)


class IndexMachine(RuleBasedStateMachine):
    """Whatever happens, the index and the model give the same answers."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.model: dict[str, dict[Path, set[str]]] = {}
        for worker in WORKERS:
            self.join(worker)

    def join(self, worker: str) -> None:
        self.index.add_worker(worker)
        self.model[worker] = {}

    @rule(worker=workers, path=paths, tier=tiers, data=st.data())
    def store(self, worker: str, path: Path, tier: str, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(path) - 1))
        held = self.model[worker]
        status = self.index.apply(worker, event(worker, path, first, tier))
        if first and path[:first] not in held:
            assert status == "parent_not_found"
            return
        assert status == "ok"
        for depth in range(first, len(path)):
            held.setdefault(path[: depth + 1], set()).add(tier)

    @rule(worker=workers, tier=tiers, data=st.data())
    def remove(self, worker: str, tier: str, data: st.DataObject) -> None:
        held = self.model[worker]
        chosen = data.draw(st.lists(st.sampled_from(sorted(held)) | paths if held else paths, max_size=4, unique=True))
        known = [path for path in chosen if tier in held.get(path, ())]
        status = self.index.apply(worker, BlocksRemoved(tuple(name(worker, path) for path in chosen), tier))
        assert status == ("ok" if len(known) == len(chosen) else "block_not_found")
        for path in known:
            held[path].remove(tier)
            if not held[path]:
                del held[path]

    @rule(worker=workers)
    def clear(self, worker: str) -> None:
        assert self.index.apply(worker, BlocksCleared()) == "ok"
        self.model[worker].clear()

    @rule(worker=workers)
    def leave(self, worker: str) -> None:
        self.index.remove_worker(worker)
        self.join(worker)

    @rule(path=paths)
    def find(self, path: Path) -> None:
        assert self.index.find(path) == self.expected(path)

    @rule()
    def rebuild(self) -> None:
        rows = list(self.index.dump())
        again = PrefixIndex.rebuild(reversed(WORKERS), rows)
        again.check_integrity()
        assert list(again.dump()) == rows
        self.index = again

    @precondition(lambda self: not any(self.model.values()))
    @rule()
    def nothing_is_left(self) -> None:
        assert list(self.index.dump()) == []

    @invariant()
    def counts_agree(self) -> None:
        self.index.check_integrity()
        for worker in WORKERS:
            assert self.index.blocks(worker) == len(self.model[worker])

    def expected(self, path: Sequence[int]) -> dict[str, tuple[int, ...]]:
        found = {}
        for worker, held in self.model.items():
            counts = [0, 0, 0, 0]
            for depth in range(1, len(path) + 1):
                tiers = held.get(tuple(path[:depth]))
                if not tiers:
                    break
                counts[min(map(TIERS.index, tiers))] += 1
            if any(counts):
                found[worker] = tuple(counts)
        return found


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def index_of(*names: str) -> PrefixIndex:
    index = PrefixIndex()
    for worker in names:
        index.add_worker(worker)
    return index


def test_an_evicted_parent_stops_matches_until_it_is_back() -> None:
    index = index_of("a")
    index.apply("a", event("a", (1, 2, 3)))
    index.apply("a", BlocksRemoved((name("a", (1, 2)),)))
    assert index.find((1, 2, 3)) == {"a": (1, 0, 0, 0)}
    index.apply("a", event("a", (1, 2), first=1))
    assert index.find((1, 2, 3)) == {"a": (3, 0, 0, 0)}


def test_an_orphan_of_one_worker_does_not_lengthen_the_match_of_another() -> None:
    index = index_of("a", "b")
    index.apply("a", event("a", (1, 2, 3)))
    index.apply("b", event("b", (1,)))
    index.apply("a", BlocksRemoved((name("a", (1,)),)))
    assert index.find((1, 2, 3)) == {"b": (1, 0, 0, 0)}


def test_each_block_counts_in_its_fastest_tier() -> None:
    index = index_of("a")
    for path, tier in (((1, 2, 3, 4), "G3"), ((1, 2, 3), "G2"), ((1,), "G1")):
        index.apply("a", event("a", path, tier=tier))
    assert index.find((1, 2, 3, 4, 5)) == {"a": (1, 2, 1, 0)}
    index.apply("a", BlocksRemoved((name("a", (1,)),), "G1"))
    assert index.find((1, 2, 3, 4, 5)) == {"a": (0, 3, 1, 0)}


def test_the_same_tokens_at_another_place_are_another_block() -> None:
    index = index_of("a")
    index.apply("a", event("a", (1, 2)))
    assert index.find((2, 1)) == {}
    assert index.find((2,)) == {}


@pytest.mark.parametrize(
    "bad",
    [
        BlocksStored((StoredBlock(name("a", (1,)), 9),)),  # a name that is taken
        BlocksStored((StoredBlock(99, 1),)),  # a second name for a block
        BlocksStored((StoredBlock(99, 9),), None, "G9"),
        BlocksRemoved((name("a", (1,)),), "G9"),
    ],
)
def test_contradictions_are_refused_and_harm_nothing(bad: BlocksStored | BlocksRemoved) -> None:
    index = index_of("a")
    index.apply("a", event("a", (1, 2)))
    before = list(index.dump())
    assert index.apply("a", bad) == "invalid"
    assert list(index.dump()) == before
    index.check_integrity()


def test_a_worker_is_known_once() -> None:
    index = index_of("a")
    with pytest.raises(ValueError, match="already"):
        index.add_worker("a")


def test_a_place_that_became_free_starts_empty() -> None:
    index = index_of("a", "b", "c")
    index.apply("b", event("b", (1, 2)))
    index.remove_worker("b")
    index.add_worker("d")
    assert index.find((1, 2)) == {}
    index.apply("c", event("c", (1,)))
    index.apply("d", event("d", (1, 2)))
    assert index.find((1, 2)) == {"c": (1, 0, 0, 0), "d": (2, 0, 0, 0)}


def test_integrity_is_really_checked() -> None:
    index = index_of("a")
    index.apply("a", event("a", (1, 2)))
    index._root.children[1].held = 0
    with pytest.raises(AssertionError):
        index.check_integrity()


def test_many_workers_each_with_its_own_depth() -> None:
    names = [f"w{k}" for k in range(100)]
    index = index_of(*names)
    path = tuple(range(1, 101))
    for k, worker in enumerate(names):
        index.apply(worker, event(worker, path[: k + 1]))
    assert index.find(path) == {worker: (k + 1, 0, 0, 0) for k, worker in enumerate(names)}
