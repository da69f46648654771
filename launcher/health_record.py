"""How far the health of a run has been checked: `health.json` is how it is now, `events.health.jsonl` what happened."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from dynamoc.runtime.agent.record import Event, read_events, write_atomically

FILE = "health.json"
EVENTS = "events.health.jsonl"
"""Beside those of the agents, in their form: a file of events has one writer."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A check that was tried: what it is, how it went, and how long it took."""

    name: str
    state: str
    """`waiting`, `passed` or `failed`."""
    seconds: float
    said: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The checks so far, and where the run stands: `waiting`, `healthy` or `failed`."""

    state: str
    wall: float
    checks: tuple[Check, ...] = ()

    def __str__(self) -> str:
        last = self.checks[-1] if self.checks else None
        if self.state == "healthy" or last is None:
            return self.state
        return f"{self.state}: {last.name}" + (f": {last.said}" if last.said else "")


class HealthRecord:
    """Keeps both files. `launch` tells this start of the run from earlier ones, whose events are still there."""

    def __init__(self, folder: Path, launch: str) -> None:
        self._folder = folder
        self._launch = launch
        self._done: list[Check] = []
        events = folder / EVENTS
        self._seq = max((event.seq for event in read_events(events)), default=0) if events.is_file() else 0

    def waits_for(self, name: str) -> None:
        """A check begins."""
        self._write("waiting", [*self._done, Check(name=name, state="waiting", seconds=0.0)])

    def add(self, check: Check) -> None:
        """A check ended."""
        self._done.append(check)
        self._tell(check)
        if check.state == "failed":
            self._write("failed", self._done)

    def healthy(self) -> Health:
        """All checks passed."""
        return self._write("healthy", self._done)

    def _write(self, state: str, checks: list[Check]) -> Health:
        health = Health(state=state, wall=round(time.time(), 3), checks=tuple(checks))
        write_atomically(self._folder / FILE, msgspec.json.format(msgspec.json.encode(health), indent=2) + b"\n")
        return health

    def _tell(self, check: Check) -> None:
        self._seq += 1
        event = Event(
            seq=self._seq,
            wall=round(time.time(), 6),
            monotonic=round(time.monotonic(), 6),
            node=0,
            event="health",
            what=check.name,
            seconds=check.seconds,
            reason=check.said or None,
            details={"state": check.state, "launch": self._launch},
        )
        descriptor = os.open(self._folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, msgspec.json.encode(event) + b"\n")
        finally:
            os.close(descriptor)


def read_health(folder: Path) -> Health | None:
    """What was last written, None before the first check; msgspec.MsgspecError if it is not that."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Health)
    except FileNotFoundError:
        return None
