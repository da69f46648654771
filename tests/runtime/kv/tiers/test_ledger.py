"""A tier's books in any order of events, against a model that knows nothing of how they are kept."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tier_kit import chain

from dynamoc.runtime.kv.tiers.ledger import Entry, Ledger, Skip, State
from dynamoc.runtime.kv.tiers.page import PageKey
from dynamoc.runtime.kv.tiers.sketch import FrequencySketch
from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored

STEM = chain("stem", 3)
PAGES = [*STEM, *chain("left", 3, STEM), *chain("right", 3, STEM[:1]), *chain("other", 4)]
BY_NAME = {key.name: key for key in PAGES}
STEPS: Counter[str] = Counter()


class Books(RuleBasedStateMachine):
    """Pages are filled, lost, pinned and dropped; what is resident, and where, is followed beside it."""

    @initialize(capacity=st.integers(1, 9), frequent=st.booleans())
    def start(self, capacity: int, frequent: bool) -> None:
        self.evicted: list[Entry] = []
        self.ledger = Ledger("G2", capacity, self.evicted.extend)
        self.sketch = FrequencySketch(64) if frequent else None
        self.filling: list[Entry] = []
        self.pinned: list[Entry] = []
        self.told: dict[int, int | None] = {}
        self.places: dict[int, Entry] = {}

    @rule(key=st.sampled_from(PAGES))
    def begin(self, key: PageKey) -> None:
        STEPS["begin"] += 1
        known = not self.ledger.wants(key.name)
        parent = key.parent is None or not self.ledger.wants(key.parent)
        entry = self.ledger.begin(key, self.sketch)
        if known:
            assert entry is Skip.PRESENT
        elif not parent:
            assert entry is Skip.PARENT_ABSENT
        elif isinstance(entry, Entry):
            users = [*self.filling, *self.pinned]
            assert entry.slot not in {other.slot for other in users}, "a place in use was given away"
            self.filling.append(entry)
        else:
            assert entry in (Skip.FULL, Skip.INFREQUENT)
            assert len(self.ledger) == self.ledger.capacity or self.filling or self.pinned

    @precondition(lambda self: self.filling)
    @rule(data=st.data(), whole=st.booleans())
    def complete(self, data: st.DataObject, whole: bool) -> None:
        STEPS["complete"] += 1
        entry = self.filling.pop(data.draw(st.integers(0, len(self.filling) - 1)))
        alive = entry.state is State.FILLING
        if whole:
            self.ledger.commit(entry)
            assert not alive or entry.state is State.RESIDENT
        else:
            self.ledger.abort(entry)
            assert entry.state is State.LEAVING

    @rule(length=st.integers(1, 6), path=st.sampled_from([PAGES[:6], [*PAGES[:1], *PAGES[6:9]], PAGES[9:]]))
    def pin(self, length: int, path: list[PageKey]) -> None:
        STEPS["pin"] += 1
        keys = path[:length]
        count = self.ledger.match(keys)
        entries = self.ledger.pin([key.name for key in keys])
        assert [entry.key for entry in entries] == keys[:count]
        self.pinned.extend(entries)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        STEPS["unpin"] += 1
        self.ledger.unpin([self.pinned.pop(data.draw(st.integers(0, len(self.pinned) - 1)))])

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        STEPS["drop"] += 1
        entry = data.draw(st.sampled_from(self.pinned))
        self.ledger.drop(entry)
        assert self.ledger.wants(entry.key.name) or entry.state is State.LEAVING

    @rule(path=st.sampled_from([PAGES[:6], PAGES[9:]]))
    def touch(self, path: list[PageKey]) -> None:
        STEPS["touch"] += 1
        self.ledger.touch(path)
        if self.sketch is not None:
            for key in path:
                self.sketch.add(key.name)

    @rule(names=st.lists(st.sampled_from(PAGES), max_size=3))
    def adopt(self, names: list[PageKey]) -> None:
        STEPS["adopt"] += 1
        self.ledger.adopt(key.name for key in names)

    @invariant()
    def balanced(self) -> None:
        if not hasattr(self, "ledger"):
            return
        STEPS["checked"] += 1
        self.ledger.check_integrity()
        for event in self.ledger.take_events():
            if isinstance(event, BlocksStored):
                for block in event.blocks:
                    assert event.parent is None or event.parent in self.told, "a page was told of before its parent"
                    assert block.sequence_hash not in self.told
                    self.told[block.sequence_hash] = event.parent
            elif isinstance(event, BlocksRemoved):
                for name in event.sequence_hashes:
                    del self.told[name]
                    assert name not in self.told.values(), "a page left before those that follow it"
        resident = {block.sequence_hash for event in self.ledger.resident() for block in event.blocks}
        assert resident == set(self.told)

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.unpin(self.pinned)
        for entry in self.filling:
            self.ledger.abort(entry)
        self.ledger.clear()
        self.ledger.check_integrity()
        assert len(self.ledger) == 0


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_adopted_pages_are_announced_once_someone_knows_them() -> None:
    ledger = Ledger("G4", 8)
    ledger.adopt([key.name for key in STEM])

    assert ledger.take_events() == []
    assert ledger.match(STEM[1:]) == 2, "without its parent a page can be loaded"
    assert ledger.take_events() == []
    assert ledger.match(STEM) == 3
    assert [block.sequence_hash for event in ledger.take_events() for block in event.blocks] == [
        key.sequence_hash for key in STEM
    ]


def test_the_least_recently_used_leaf_goes_first() -> None:
    ledger = Ledger("G2", 6)
    for key in PAGES[:6]:
        entry = ledger.begin(key)
        assert isinstance(entry, Entry)
        ledger.commit(entry)
    ledger.touch(PAGES[:6])
    assert isinstance(ledger.begin(PAGES[9]), Entry)

    assert ledger.match(PAGES[:6]) == 5


def test_a_rarer_page_does_not_displace_a_more_frequent_one() -> None:
    sketch, ledger = FrequencySketch(16), Ledger("G2", 1)
    entry = ledger.begin(PAGES[0], sketch)
    assert isinstance(entry, Entry)
    ledger.commit(entry)
    sketch.add(PAGES[0].name)

    assert ledger.begin(PAGES[9], sketch) is Skip.INFREQUENT
    sketch.add(PAGES[9].name)
    sketch.add(PAGES[9].name)
    assert isinstance(ledger.begin(PAGES[9], sketch), Entry)


def test_what_is_found_after_a_restart_is_whole_prefixes() -> None:
    ledger = Ledger("G3", 16)
    found = [(key, 2 * slot) for slot, key in enumerate([PAGES[2], PAGES[0], PAGES[1], PAGES[5], PAGES[9]])]

    assert ledger.restore(found) == [6], "the page without its parent gives its place back"
    assert ledger.match(PAGES[:6]) == 3
    ledger.check_integrity()


def filled(capacity: int, keys: list[PageKey]) -> Ledger:
    ledger = Ledger("G2", capacity)
    for key in keys:
        entry = ledger.begin(key)
        assert isinstance(entry, Entry)
        ledger.commit(entry)
        ledger.check_integrity()
    return ledger


def test_pages_leave_from_the_high_watermark_to_the_low_one():
    keys = [chain(number, 1)[0] for number in range(200)]

    assert len(filled(200, keys[:180])) == 180
    assert len(filled(200, keys[:181])) == 171, "85 % and the new one"
    kept = filled(200, keys[:181])
    assert [kept.wants(key.name) for key in keys[:181]] == [True] * 10 + [False] * 171, "the oldest go"


def test_what_cannot_leave_may_fill_every_place():
    keys = [chain(number, 1)[0] for number in range(101)]
    ledger = filled(100, keys[:90])
    pinned = ledger.pin([key.name for key in keys[:90]])
    pinned += [entry for key in keys[1:90] for entry in ledger.pin([key.name])]
    more = [ledger.begin(key) for key in keys[90:]]

    assert [isinstance(entry, Entry) for entry in more] == [True] * 10 + [False]
    assert more[-1] is Skip.FULL
    ledger.unpin(pinned)
    assert isinstance(ledger.begin(keys[100]), Entry), "now there is something to evict"
    ledger.check_integrity()
