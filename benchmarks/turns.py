"""Ours and its ceilings by turns: what a machine does meanwhile slows all, and their quotients stay."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple


class Spent(NamedTuple):
    """Time on the clock, and of this process on all processors."""

    seconds: float
    cpu_s: float


class Watch:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._started, self._cpu_s = time.monotonic(), self._used()

    def stop(self) -> Spent:
        return Spent(time.monotonic() - self._started, self._used() - self._cpu_s)

    @staticmethod
    def _used() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime


class Side(NamedTuple):
    """Something that moves `size` bytes each time it is called."""

    run: Callable[[], Spent]
    size: int


def in_threads(count: int, threads: int, job: Callable[[int, int], object]) -> Spent:
    """`job(number, thread)` for each number below `count`, dealt to the threads before the clock starts."""

    def work(thread: int) -> None:
        for number in range(thread, count, threads):
            job(number, thread)

    with ThreadPoolExecutor(threads) as pool:
        watch = Watch()
        for future in [pool.submit(work, thread) for thread in range(threads)]:
            future.result()
        return watch.stop()


def by_turns(turns: int, *, ours: Side, **ceilings: Side) -> dict[str, Any]:
    """Medians in bytes per second of all sides, and of the quotients of each turn; who goes first alternates."""
    sides = {"ours": ours, **ceilings}
    spent: dict[str, list[Spent]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in sorted(sides, reverse=bool(turn % 2)):
            spent[name].append(sides[name].run())
    result: dict[str, Any] = {"turns": turns}
    for name, side in sides.items():
        gb = side.size / 1e9
        speeds = sorted(gb / one.seconds for one in spent[name])
        result |= {
            f"{name}_gb_per_s": round(statistics.median(speeds), 3),
            f"{name}_min_max": [round(speeds[0], 3), round(speeds[-1], 3)],
            f"{name}_cpu_s_per_gb": round(statistics.median(one.cpu_s / gb for one in spent[name]), 3),
        }
    for name, ceiling in ceilings.items():
        shares = [
            (ours.size / mine.seconds) / (ceiling.size / theirs.seconds)
            for mine, theirs in zip(spent["ours"], spent[name], strict=True)
        ]
        low, middle, high = statistics.quantiles(shares, n=4)
        result |= {
            f"share_of_{name}": round(middle, 3),
            f"share_of_{name}_quartiles": [round(low, 3), round(high, 3)],
        }
    return result
