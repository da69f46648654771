"""What the tiers did since somebody last asked: for the metrics, and for whoever wonders why a page is not there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from dynamoc.runtime.kv.tiers.ledger import Skip


class Outcome(StrEnum):
    """How a copy ended. There is no fourth way."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Path:
    """From one tier to another. `via` moves the bytes: `copy`, `file` or `object`; `bounce` names a detour."""

    via: str
    source: str
    target: str
    operation: str


@dataclass(slots=True)
class Copied:
    """Copies of one kind that ended. `failures` counts by reason."""

    moved_bytes: int = 0
    blocks: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Level:
    """One tier now, in pages."""

    tier: str
    resident: int
    capacity: int
    is_up: bool


@dataclass(slots=True)
class TierReport:
    """Since the last report, but for `levels` and `in_flight`, which are of now."""

    copied: dict[Path, Copied] = field(default_factory=dict)
    skipped: Counter[tuple[str, Skip]] = field(default_factory=Counter)
    corrupt: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    recomputed: int = 0
    """Blocks that a tier holds, but that were faster computed than loaded."""
    in_flight: dict[Path, int] = field(default_factory=dict)
    levels: tuple[Level, ...] = ()
    overlapped: int = 0
    """Prompts of which a step computed the first layers while later ones were being loaded."""
    layer_wait_s: float = 0.0
    void_steps: int = 0
    """Steps that were given up because layers did not come."""
    ways: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Copies between a GPU and host memory, by way and operation."""

    @property
    def has_news(self) -> bool:
        """Whether anything was counted."""
        blocks = self.copied or self.skipped or self.corrupt or self.hits or self.recomputed or self.ways
        return bool(blocks or self.overlapped or self.void_steps)


class Tally:
    """Collects from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._report = TierReport()
        self._in_flight: Counter[Path] = Counter()

    @contextlib.contextmanager
    def copying(self, path: Path) -> Iterator[list[int]]:
        """Measure one copy; the body appends the bytes of each block that arrived. An exception counts as a failure."""
        arrived: list[int] = []
        with self._lock:
            self._in_flight[path] += 1
        started = time.monotonic()
        try:
            yield arrived
        except BaseException:
            self.failed(path, Outcome.FAILURE)
            raise
        finally:
            seconds = time.monotonic() - started
            with self._lock:
                self._in_flight[path] -= 1
                copied = self._report.copied.setdefault(path, Copied())
                copied.moved_bytes += sum(arrived)
                copied.blocks += len(arrived)
                if arrived:
                    copied.seconds.append(seconds)

    def failed(self, path: Path, reason: str, blocks: int = 1) -> None:
        """Blocks did not arrive."""
        with self._lock:
            self._report.copied.setdefault(path, Copied()).failures[reason] += blocks

    def skipped(self, tier: str, reason: Skip, blocks: int = 1) -> None:
        """Blocks were not stored in a tier."""
        if reason is not Skip.PRESENT and blocks:
            with self._lock:
                self._report.skipped[tier, reason] += blocks

    def corrupt(self, tier: str) -> None:
        """A page was wrong when it was read."""
        with self._lock:
            self._report.corrupt[tier] += 1

    def looked_up(self, hits: Counter[str], recomputed: int) -> None:
        """A prompt's blocks were found: so many in each tier are loaded, so many are computed all the same."""
        with self._lock:
            self._report.hits.update(hits)
            self._report.recomputed += recomputed

    def overlapped(self, prompts: int, waited_s: float, void_steps: int) -> None:
        """A step was computed, or given up, while blocks of prompts were arriving."""
        with self._lock:
            self._report.overlapped += prompts
            self._report.layer_wait_s += waited_s
            self._report.void_steps += void_steps

    def take(self, levels: tuple[Level, ...]) -> TierReport:
        """Everything since the last call."""
        with self._lock:
            report, self._report = self._report, TierReport()
            report.in_flight = dict(self._in_flight)
        report.levels = levels
        return report
