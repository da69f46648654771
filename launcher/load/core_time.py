"""How long this thread used a core, and how long it wanted one while others had it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

SCHEDULER = Path("/proc/thread-self/schedstat")
NS = 1e9


def core_time_s() -> float:
    """Seconds so far that the thread ran or waited to run; only those it ran where the kernel does not count others."""
    with contextlib.suppress(OSError, ValueError):
        ran, waited, _ = SCHEDULER.read_text().split()
        return (int(ran) + int(waited)) / NS
    return time.thread_time()
