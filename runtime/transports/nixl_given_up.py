"""Writes that were begun and not seen to arrive before their connections ended, until they are known to be over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from dynamoc.runtime.transports.nixl_agent import Write
from dynamoc.runtime.transports.nixl_leases import LATE_S
from dynamoc.runtime.transports.protocol import TransportError

MOST = 1024
"""Older ones are forgotten: their owners then wait for this process to end."""


@dataclass(slots=True, eq=False)
class Loose:
    """Writes into a stage that `owner` leased under this number."""

    owner: str
    lease: int
    writes: Sequence[Write]
    failed_at: float | None = None

    def is_over(self) -> bool:
        """Whether nothing of it comes any more: it arrived, or UCX gave it up as long ago as its bytes may take."""
        try:
            if self.failed_at is None and all(write.is_done() for write in self.writes):
                return True
        except TransportError:
            self.failed_at = time.monotonic()
        return self.failed_at is not None and time.monotonic() > self.failed_at + LATE_S


@dataclass(slots=True)
class GivenUp:
    """Those of this process. Used from many threads."""

    _loose: deque[Loose] = field(default_factory=lambda: deque(maxlen=MOST))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, loose: Loose) -> None:
        """Keep it until it is over."""
        with self._lock:
            self._loose.append(loose)

    def over(self, owner: str) -> list[Loose]:
        """Those to that owner of which nothing comes any more: it may be told."""
        with self._lock:
            return [loose for loose in self._loose if loose.owner == owner and loose.is_over()]

    def forget(self, told: Sequence[Loose]) -> None:
        """The owner knows."""
        with self._lock:
            self._loose = deque((loose for loose in self._loose if loose not in told), MOST)
