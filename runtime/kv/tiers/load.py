"""One prompt's blocks on their way to the device, and the lease that lets copies write them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from dynamoc.runtime.kv.tiers.device import Device

Told = Callable[["Load"], None]


class Load:
    """The right to write `blocks`. After `revoke` has returned, or `done` was called, nothing writes them any more.

    Copies that are still reading then come too late: they find the lease revoked and touch nothing but their buffers.
    Blocks arrive whole, or some layers of them at a time; `arrived`, if wanted, is told of each group of layers that is
    complete in all blocks and all layers before it. Both are called from any thread.
    """

    def __init__(
        self,
        device: Device,
        blocks: Sequence[int],
        chunks: int,
        deadline: float,
        done: Told,
        arrived: Told | None = None,
    ) -> None:
        self.blocks = tuple(blocks)
        self.deadline = deadline
        self.started = time.monotonic()
        self.groups = device.format.groups
        self._device = device
        self._done = done
        self._arrived = arrived
        self._changed = threading.Condition()
        self._have = bytearray(len(self.blocks))
        """Groups that each block has."""
        self._absent = [len(self.blocks)] * self.groups
        """Blocks that lack each group."""
        self._limit = len(self.blocks)
        self._chunks = chunks
        self._writing = 0
        self._revoked = False
        self._told = False

    @property
    def delivered(self) -> float:
        """Blocks written, wherever they are; layers of one are a share of it."""
        return sum(self._have) / self.groups

    @property
    def prefix(self) -> int:
        """How many leading blocks hold what they should."""
        return next((place for place, groups in enumerate(self._have) if groups < self.groups), len(self.blocks))

    @property
    def groups_there(self) -> int:
        """How many leading groups of layers are complete in all blocks."""
        return next((group for group, blocks in enumerate(self._absent) if blocks), self.groups)

    @property
    def is_short(self) -> bool:
        """Whether some of it will never come."""
        return not self.wants(len(self.blocks) - 1) and self.groups_there < self.groups

    def wants(self, start: int) -> bool:
        """Whether there is any use in reading on for the block at this position."""
        return not self._revoked and start < self._limit

    def deliver(
        self,
        start: int,
        pages: Sequence[memoryview],
        layers: range | None = None,
        right: Callable[[Sequence[int]], int] | None = None,
    ) -> int | None:
        """Write consecutive blocks, or layers of them, from position `start`; None if late: nothing was written.

        `right`, if given, says how many leading ones of the written blocks are right; only those count as there.
        """
        with self._changed:
            if self._revoked:
                return None
            self._writing += 1
        places, good, before = range(start, start + len(pages)), 0, self.groups_there
        blocks = [self.blocks[place] for place in places]
        try:
            self._device.write(pages, blocks, layers)
            good = len(places) if right is None else right(blocks)
        finally:
            with self._changed:
                self._writing -= 1
                if good:
                    self._note(places[:good], layers)
                self._changed.notify_all()
        if self._arrived is not None and before < self.groups_there < self.groups:
            self._arrived(self)
        return good

    def fail(self, place: int) -> None:
        """The block at this position will not come."""
        with self._changed:
            self._limit = min(self._limit, place)
            self._changed.notify_all()

    def wait(self, group: int, timeout_s: float) -> bool:
        """Whether a group of layers is there in all blocks, as soon as that is known; False if it takes too long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._absent[group] or not self.wants(len(self.blocks) - 1), timeout_s)
            return not self._absent[group]

    def settle(self) -> bool:
        """One chunk has completed, with whatever outcome; whether it was the last."""
        with self._changed:
            self._chunks -= 1
            if self._chunks:
                return False
        self._tell()
        return True

    def revoke(self) -> None:
        """Take the right to write back; returns when no write is under way. `done` is not called any more."""
        with self._changed:
            self._revoked = True
            self._told = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing)

    def expire(self) -> bool:
        """It takes too long: `done` hears of what has arrived so far. Whether it was still under way."""
        with self._changed:
            if self._told:
                return False
            self._revoked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing)
        return self._tell()

    def _note(self, places: range, layers: range | None) -> None:
        step = self._device.format.group_layers
        groups = range(self.groups) if layers is None else range(layers.start // step, -(-layers.stop // step))
        for group in groups:
            self._absent[group] -= len(places)
        for place in places:
            self._have[place] += len(groups)

    def _tell(self) -> bool:
        with self._changed:
            if self._told:
                return False
            self._told = self._revoked = True
            self._changed.notify_all()
        self._done(self)
        return True
