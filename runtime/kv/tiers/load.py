"""One prompt's blocks on their way to the device, and the lease that lets copies write them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from dynamoc.runtime.kv.tiers.device import Device


class Load:
    """The right to write `blocks`. After `revoke` has returned, or `done` was called, nothing writes them any more.

    Copies that are still reading then come too late: they find the lease revoked and touch nothing but their buffers.
    """

    def __init__(
        self,
        device: Device,
        blocks: Sequence[int],
        chunks: int,
        deadline: float,
        done: Callable[[Load], None],
    ) -> None:
        self.blocks = tuple(blocks)
        self.deadline = deadline
        self.started = time.monotonic()
        self._device = device
        self._done = done
        self._changed = threading.Condition()
        self._arrived = bytearray(len(self.blocks))
        self._chunks = chunks
        self._writing = 0
        self._revoked = False
        self._told = False

    @property
    def is_over(self) -> bool:
        """Whether there is no use in reading on."""
        return self._revoked

    @property
    def delivered(self) -> int:
        """Blocks written, wherever they are."""
        return sum(self._arrived)

    @property
    def prefix(self) -> int:
        """How many leading blocks hold what they should."""
        absent = self._arrived.find(0)
        return len(self._arrived) if absent < 0 else absent

    def deliver(self, start: int, pages: Sequence[memoryview]) -> bool:
        """Write consecutive blocks from position `start`; False, and nothing was written, if it is too late."""
        with self._changed:
            if self._revoked:
                return False
            self._writing += 1
        written = False
        try:
            self._device.write(pages, self.blocks[start : start + len(pages)])
            written = True
        finally:
            with self._changed:
                self._writing -= 1
                if written:
                    self._arrived[start : start + len(pages)] = b"\1" * len(pages)
                self._changed.notify_all()
        return True

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
            self._changed.wait_for(lambda: not self._writing)

    def expire(self) -> bool:
        """It takes too long: `done` hears of what has arrived so far. Whether it was still under way."""
        with self._changed:
            if self._told:
                return False
            self._revoked = True
            self._changed.wait_for(lambda: not self._writing)
        return self._tell()

    def _tell(self) -> bool:
        with self._changed:
            if self._told:
                return False
            self._told = self._revoked = True
        self._done(self)
        return True
