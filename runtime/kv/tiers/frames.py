"""Host memory for frames: one mapping, cut into aligned places; and a small pool of them for copies under way."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from dynamoc.runtime.kv.memory import huge_memory
from dynamoc.runtime.kv.tiers.device import Pinned
from dynamoc.runtime.kv.tiers.page import ALIGN

Pin = Callable[[memoryview, int], Pinned]

STUCK_LOOK_S = 0.05
"""How often whoever waits for a buffer looks whether a stuck one came free."""


class StagingTimeoutError(TimeoutError):
    """Every buffer stayed in use until the deadline."""


class Frames:
    """`count` frames in one anonymous mapping, each at a multiple of `ALIGN`, ready for a device's copies."""

    def __init__(self, count: int, frame_bytes: int, pin: Pin) -> None:
        if frame_bytes % ALIGN:
            raise ValueError(f"a frame of {frame_bytes} bytes is not a multiple of {ALIGN}")
        self.count = count
        self.frame_bytes = frame_bytes
        self._map = huge_memory(count * frame_bytes)
        self._data = memoryview(self._map)[: count * frame_bytes]
        self._pinned = pin(self._data, frame_bytes)

    def view(self, index: int) -> memoryview:
        """The bytes of one frame."""
        return self._data[index * self.frame_bytes : (index + 1) * self.frame_bytes]

    def lease(self, index: int) -> tuple[memoryview, weakref.ref[object]]:
        """The bytes of one frame, and a reference that is dead once nothing can reach them through this view."""
        owner = (ctypes.c_char * self.frame_bytes).from_buffer(self._map, index * self.frame_bytes)
        return memoryview(owner).cast("B"), weakref.ref(owner)

    def close(self) -> None:
        """Give the memory back once nobody looks at it any more."""
        self._pinned.close()
        self._data.release()
        try:
            self._map.close()
        except BufferError:  # a copy that hangs still has its frame; the mapping goes with it
            return


class Staging:
    """Buffers that copies borrow. One is lent again only when nothing can write to it any more.

    Whatever reads or writes a buffer holds a view of it. A copy that was given up but still hangs keeps its buffer
    `stuck`, out of use, until it lets go. The buffer that came back last is lent first: it is still in the processor's
    cache, which saves two fifths of the cycles of gathering a page and of its checksums.
    """

    def __init__(self, buffers: int, frame_bytes: int, pin: Pin) -> None:
        self._frames = Frames(buffers, frame_bytes, pin)
        self._changed = threading.Condition()
        self._free = list(range(buffers))
        self._stuck: list[tuple[int, weakref.ref[object]]] = []
        self._lent: dict[int, tuple[int, weakref.ref[object]]] = {}
        self.buffers = buffers
        self.high_water = 0

    @property
    def in_use(self) -> int:
        """Buffers lent or stuck."""
        with self._changed:
            return self.buffers - len(self._free)

    @property
    def stuck(self) -> int:
        """Buffers given back while something still held them."""
        with self._changed:
            self._retry()
            return len(self._stuck)

    def borrow(self, wanted: int, timeout_s: float) -> list[memoryview]:
        """At least one buffer, at most `wanted`; StagingTimeoutError if none comes free in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._free:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise StagingTimeoutError(f"all {self.buffers} staging buffers stayed in use for {timeout_s:g} s")
                self._changed.wait(min(left, STUCK_LOOK_S))
                self._retry()
            views = []
            for _ in range(min(wanted, len(self._free))):
                index = self._free.pop()
                view, lease = self._frames.lease(index)
                views.append(view)
                self._lent[id(view)] = index, lease
            self.high_water = max(self.high_water, self.buffers - len(self._free))
            return views

    def give_back(self, views: Sequence[memoryview]) -> None:
        """The copies through these buffers have completed, whatever came of them."""
        with self._changed:
            for view in views:
                self._stuck.append(self._lent.pop(id(view)))
                with contextlib.suppress(BufferError):  # a call still has it; the lease dies with that call
                    view.release()
            self._retry()
            self._changed.notify_all()

    def close(self) -> None:
        """Give the memory back."""
        self._frames.close()

    def _retry(self) -> None:
        still = []
        for index, lease in self._stuck:
            if lease() is None:
                self._free.append(index)
            else:
                still.append((index, lease))
        self._stuck = still
