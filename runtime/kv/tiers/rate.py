"""What a tier delivers, measured, and how much it may still be worn: the numbers behind its decisions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_WEIGHT = 0.2
"""Of the newest measurement."""
DAY_S = 86_400.0


class Rate:
    """Bytes per second of one direction, smoothed. `assumed` until something was measured."""

    def __init__(self, assumed_bytes_per_s: float) -> None:
        self.bytes_per_s = assumed_bytes_per_s
        self.measured = False

    def observe(self, moved_bytes: int, seconds: float) -> None:
        """One copy took so long."""
        if moved_bytes <= 0 or seconds <= 0:
            return
        sample = moved_bytes / seconds
        # The mean of times, not of speeds: one fast copy does not make up for a slow one.
        self.bytes_per_s = 1 / ((1 - _WEIGHT) / self.bytes_per_s + _WEIGHT / sample) if self.measured else sample
        self.measured = True


class Endurance:
    """A disk's budget of written bytes: `bytes_per_day` flow in evenly; unused ones are kept for a day."""

    def __init__(self, bytes_per_day: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_day = bytes_per_day
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(bytes_per_day or 0)
        self._at = clock()

    def allows(self, size: int) -> bool:
        """Whether so many bytes are left."""
        if self._per_day is None:
            return True
        with self._lock:
            now = self._clock()
            self._left = min(self._per_day, self._left + (now - self._at) * self._per_day / DAY_S)
            self._at = now
            return size <= self._left

    def spend(self, size: int) -> None:
        """So many bytes are written."""
        with self._lock:
            self._left -= size
