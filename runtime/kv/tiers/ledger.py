"""Which pages a tier holds, and what is happening to each: the block state machine.

absent -> filling -> resident -> leaving -> absent. A page is filled by one copy at a time; while it is pinned it stays
where it is; one that was dropped while pinned is leaving, found by nobody, until the last pin is gone.
A page enters a tier after its parent and leaves before it, so that what a tier holds are whole prefixes.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dynamoc.runtime.kv.tiers.page import PageKey
from dynamoc.runtime.kv.tiers.sketch import FrequencySketch
from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored, KvEvent, StoredBlock

HIGH_WATER, LOW_WATER = 0.90, 0.85
"""Once this share of the places is taken, pages leave until that share is: bursts find room without waiting for it, and
neighbouring places come free together, which keeps writes long. What cannot leave may fill the rest."""


class State(StrEnum):
    """Of a page in a tier. Absent pages have no entry."""

    FILLING = "filling"
    RESIDENT = "resident"
    LEAVING = "leaving"


class Skip(StrEnum):
    """Why a page is not stored in a tier."""

    PRESENT = "present"
    PARENT_ABSENT = "parent_absent"
    INFREQUENT = "infrequent"
    FULL = "full"
    BUSY = "busy"
    OFF = "off"
    ENDURANCE = "endurance"
    EVICTED = "evicted"


@dataclass(slots=True, eq=False)
class Entry:
    """One page in one tier. `slot` is its place there; `adopted` means found there, with no tokens known to us yet."""

    key: PageKey
    slot: int
    state: State = State.FILLING
    pins: int = 0
    announced: bool = False
    adopted: bool = False
    children: dict[bytes, Entry] = field(default_factory=dict)


class Ledger:
    """The books of one tier of `capacity` pages. Thread-safe; no call blocks on anything but the lock.

    `on_evict` is told, under the lock, of pages that give up their places to others.
    """

    def __init__(self, tier: str, capacity: int, on_evict: Callable[[list[Entry]], None] | None = None) -> None:
        self.tier = tier
        self.capacity = capacity
        self._on_evict = on_evict
        self._lock = threading.RLock()
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._free: list[int] = []
        self._next = 0
        self._leaving = 0
        self._nothing_can_leave = False
        self._events: list[KvEvent] = []

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, keys: Sequence[PageKey]) -> int:
        """How many leading pages can be loaded now. What was adopted is described and announced by it."""
        with self._lock:
            for count, key in enumerate(keys):
                entry = self._entries.get(key.name)
                if entry is None or entry.state is not State.RESIDENT:
                    return count
                if entry.adopted:
                    self._describe(entry, key)
            return len(keys)

    def wants(self, name: bytes) -> bool:
        """Whether the page is absent."""
        return name not in self._entries

    def touch(self, keys: Sequence[PageKey]) -> None:
        """A prefix was used. Its last page becomes the first of them to be evicted."""
        with self._lock:
            for key in keys:
                entry = self._entries.get(key.name)
                if entry is not None and entry.adopted:
                    self._describe(entry, key)
            for key in reversed(keys):
                if key.name in self._entries:
                    self._entries.move_to_end(key.name)

    def pin(self, names: Sequence[bytes]) -> list[Entry]:
        """Keep the leading resident ones of these pages where they are, until they are unpinned."""
        pinned: list[Entry] = []
        with self._lock:
            for name in names:
                entry = self._entries.get(name)
                if entry is None or entry.state is not State.RESIDENT:
                    break
                entry.pins += 1
                pinned.append(entry)
        return pinned

    def unpin(self, entries: Iterable[Entry]) -> None:
        """The copies from these pages have completed."""
        with self._lock:
            self._nothing_can_leave = False
            for entry in entries:
                entry.pins -= 1
                if entry.state is State.LEAVING and not entry.pins:
                    self._vacate(entry)

    # ---- entering -----------------------------------------------------------------------------------------

    def begin(self, key: PageKey, sketch: FrequencySketch | None = None) -> Entry | Skip:
        """A place to fill, or why there is none. With a `sketch`, only rarer pages make room for this one."""
        with self._lock:
            if key.name in self._entries:
                return Skip.PRESENT
            parent = self._entries.get(key.parent) if key.parent is not None else None
            if key.parent is not None and parent is None:
                return Skip.PARENT_ABSENT
            refusal = self._make_room(key, parent, sketch)
            if refusal is not None:
                return refusal
            entry = Entry(key, self._take_slot())
            self._entries[key.name] = entry
            if parent is not None:
                parent.children[key.name] = entry
            return entry

    def commit(self, entry: Entry) -> None:
        """The page is complete: others may have it."""
        with self._lock:
            if entry.state is State.FILLING:
                entry.state = State.RESIDENT
                self._nothing_can_leave = False
                self._announce(entry)
            else:
                self._vacate(entry)

    def abort(self, entry: Entry) -> None:
        """The copy into this page has completed without success: it was never there, nor what follows it."""
        with self._lock:
            if entry.state is State.LEAVING:
                self._vacate(entry)
                return
            self._remove(entry, filled=True)

    def restore(self, pages: Iterable[tuple[PageKey, int]]) -> list[int]:
        """Take in what was found at a start, each with its place; the places of orphans and doubles are given back."""
        with self._lock:
            waiting: dict[bytes | None, list[tuple[PageKey, int]]] = {}
            slots: set[int] = set()
            for key, slot in pages:
                waiting.setdefault(key.parent, []).append((key, slot))
                slots.add(slot)
            heads: list[bytes | None] = [None]
            kept: set[int] = set()
            while heads:
                parent = heads.pop()
                for key, slot in waiting.pop(parent, ()):
                    if key.name in self._entries:
                        continue
                    entry = self._entries[key.name] = Entry(key, slot, State.RESIDENT)
                    if parent is not None:
                        self._entries[parent].children[key.name] = entry
                    self._announce(entry)
                    kept.add(slot)
                    heads.append(key.name)
            self._next = max(slots, default=-1) + 1
            self._free = sorted(set(range(self._next)) - kept)
            self._entries = OrderedDict(reversed(self._entries.items()))
            return sorted(slots - kept)

    def adopt(self, names: Iterable[bytes]) -> None:
        """Pages that others stored where this tier can read them."""
        with self._lock:
            self._nothing_can_leave = False
            for name in names:
                if name not in self._entries and self._has_place():
                    key = PageKey(name, None, 0, 0, None)
                    self._entries[name] = Entry(key, self._take_slot(), State.RESIDENT, adopted=True)
                    self._entries.move_to_end(name, last=False)

    # ---- leaving ------------------------------------------------------------------------------------------

    def drop(self, entry: Entry) -> None:
        """The page turned out to be lost or damaged: it goes, and what follows it."""
        with self._lock:
            if entry.state is State.RESIDENT:
                self._remove(entry)

    def clear(self) -> None:
        """Everything goes."""
        with self._lock:
            for entry in [e for e in self._entries.values() if e.key.parent not in self._entries]:
                self._remove(entry)

    def shrink(self, capacity: int) -> None:
        """There are only so many places after all; pages that are being filled beyond them have nowhere to be."""
        with self._lock:
            self.capacity = capacity
            self._free = [slot for slot in self._free if slot < capacity]
            self._next = min(self._next, capacity)

    # ---- telling ------------------------------------------------------------------------------------------

    def take_events(self) -> list[KvEvent]:
        """What became resident and what left since the last call, in order."""
        with self._lock:
            events, self._events = self._events, []
            return events

    def resident(self) -> list[KvEvent]:
        """All announced pages as stored events, parents first."""
        with self._lock:
            events: list[KvEvent] = []
            heads = [e for e in self._entries.values() if e.announced and e.key.parent is None]
            while heads:
                entry = heads.pop()
                events.append(self._stored(entry))
                heads.extend(child for child in entry.children.values() if child.announced)
            return events

    def check_integrity(self) -> None:
        """AssertionError if the books contradict themselves."""
        with self._lock:
            slots = [entry.slot for entry in self._entries.values()]
            assert len(slots) == len(set(slots)), "two pages in one place"
            assert not set(slots) & set(self._free), "a page in a free place"
            assert len(slots) + len(self._free) + self._leaving == self._next, "a place was lost"
            assert self._next <= self.capacity, "more places than the capacity"
            for name, entry in self._entries.items():
                assert entry.key.name == name
                assert entry.state is not State.LEAVING
                assert all(self._entries.get(child) is e for child, e in entry.children.items()), "a lost child"
                if entry.key.parent is not None:
                    parent = self._entries.get(entry.key.parent)
                    assert parent is not None, "a page outlived its parent"
                    assert parent.children.get(name) is entry, "a lost child"
                    assert parent.announced or not entry.announced, "a page was announced before its parent"

    # ---- inside -------------------------------------------------------------------------------------------

    def _make_room(self, key: PageKey, parent: Entry | None, sketch: FrequencySketch | None) -> Skip | None:
        taken = self._next - len(self._free)
        if taken < math.ceil(self.capacity * HIGH_WATER) or (self._nothing_can_leave and self._has_place()):
            return None
        victims: dict[bytes, Entry] = {}
        wanted = max(1, taken - int(self.capacity * LOW_WATER))
        for name, entry in self._entries.items():
            busy = entry.state is not State.RESIDENT or entry.pins or entry is parent
            if busy or not entry.children.keys() <= victims.keys():
                continue
            if sketch is not None and sketch.count(name) >= sketch.count(key.name):
                if not victims:
                    return Skip.INFREQUENT
                break
            victims[name] = entry
            if len(victims) == wanted:
                break
        if not victims:
            self._nothing_can_leave = True
            return None if self._has_place() else Skip.FULL
        if self._on_evict is not None:
            self._on_evict(list(victims.values()))
        for victim in victims.values():
            self._remove(victim)
        return None

    def _has_place(self) -> bool:
        return bool(self._free) or self._next < self.capacity

    def _take_slot(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def _remove(self, entry: Entry, *, filled: bool = False) -> None:
        """Out of the books with it and all that follows it; its place is free when nothing uses it any more."""
        self._nothing_can_leave = False
        doomed = [entry]
        for one in doomed:
            doomed.extend(one.children.values())
        if entry.key.parent is not None and (parent := self._entries.get(entry.key.parent)) is not None:
            parent.children.pop(entry.key.name, None)
        for one in reversed(doomed):
            del self._entries[one.key.name]
            if one.announced:
                self._events.append(BlocksRemoved((one.key.sequence_hash,), self.tier))
            under_way = one.pins or (one.state is State.FILLING and not (filled and one is entry))
            one.state = State.LEAVING
            one.children.clear()
            one.announced = False
            self._leaving += 1
            if not under_way:
                self._vacate(one)

    def _vacate(self, entry: Entry) -> None:
        self._leaving -= 1
        if entry.slot < self.capacity:
            heapq.heappush(self._free, entry.slot)

    def _announce(self, entry: Entry) -> None:
        """Tell of a page once its parent was told of, then of those that waited for it."""
        ready = [entry]
        while ready:
            one = ready.pop()
            parent = self._entries.get(one.key.parent) if one.key.parent is not None else None
            if one.state is not State.RESIDENT or one.announced or one.adopted:
                continue
            if one.key.parent is not None and (parent is None or not parent.announced):
                continue
            one.announced = True
            self._events.append(self._stored(one))
            ready.extend(one.children.values())

    def _describe(self, entry: Entry, key: PageKey) -> None:
        """Whoever asks for an adopted page knows its tokens. Without its parent it can be loaded, but not announced."""
        parent = self._entries.get(key.parent) if key.parent is not None else None
        if key.parent is not None and (parent is None or not parent.announced):
            return
        entry.key, entry.adopted = key, False
        if parent is not None:
            parent.children[key.name] = entry
        self._announce(entry)

    def _stored(self, entry: Entry) -> BlocksStored:
        key = entry.key
        return BlocksStored((StoredBlock(key.sequence_hash, key.local_hash),), key.parent_hash, self.tier)
