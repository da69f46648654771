"""Whether to go on asking something that fails: off after a few failures in a row, asked again after a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILURES = 3
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Breaker:
    """Up, or off until a pause is over; each failure after that doubles the pause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0

    @property
    def is_up(self) -> bool:
        """Whether it is to be tried now."""
        return self._failures < FAILURES or self._clock() >= self._until

    def succeeded(self) -> None:
        """It works."""
        with self._lock:
            self._failures, self._pause_s = 0, FIRST_PAUSE_S

    def failed(self) -> bool:
        """It did not; whether it is off from now on."""
        with self._lock:
            was_up = self.is_up
            self._failures += 1
            if self._failures < FAILURES or not was_up:
                return False
            self._until = self._clock() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return True
