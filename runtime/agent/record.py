"""What an agent writes down: `events.jsonl` (what happened) and `status.json` (how it is now)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec

EventName = Literal["starting", "progress", "ready", "exited", "restarting", "failed", "draining", "stopped", "health"]


class State(StrEnum):
    """How a process is, or the run as a whole (which alone can be `degraded`: it was ready, a process is not)."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.STOPPED, State.FAILED)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of events.jsonl. Without `process` it is about the run on this node.

    `seq` counts up by one per node; `wall` is Unix time, `monotonic` the node's clock, both in seconds.
    """

    seq: int
    wall: float
    monotonic: float
    node: int
    event: EventName
    process: str | None = None
    incarnation: int | None = None
    pid: int | None = None
    status: int | None = None
    signal: str | None = None
    seconds: float | None = None
    fraction: float | None = None
    what: str | None = None
    reason: str | None = None
    evidence: str | None = None
    details: dict[str, Any] | None = None


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process now. `since` is the Unix time of the last change of state."""

    name: str
    component: str
    role: str
    replica: int
    state: State
    since: float
    host: str
    ports: dict[str, int]
    pid: int | None = None
    incarnation: int = 0
    restarts: int = 0
    fraction: float = 0.0
    what: str = ""
    reason: str = ""
    evidence: str = ""


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The run on one node now."""

    name: str
    plan_hash: str
    node: int
    state: State
    since: float
    agent_pid: int
    processes: dict[str, ProcessStatus]
    seq: int = 0
    reason: str = ""
    launch: str = ""
    """Which start of the run these words are of; see DYNAMOC_LAUNCH."""


def node_file(run_dir: Path, name: str, node: int) -> Path:
    """`status.json` of node 0, `status.node-1.json` of node 1, and so on."""
    path = run_dir / name
    return path if node == 0 else path.with_name(f"{path.stem}.node-{node}{path.suffix}")


def read_status(run_dir: Path, node: int) -> RunStatus | None:
    """What the agent of a node last wrote, None before its first word; msgspec.MsgspecError if it is not a status."""
    try:
        return msgspec.json.decode(node_file(run_dir, "status.json", node).read_bytes(), type=RunStatus)
    except FileNotFoundError:
        return None


def read_events(path: Path) -> Iterator[Event]:
    """Every complete line of an events file; a line that is still being written is left out."""
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield msgspec.json.decode(line, type=Event)


def write_atomically(path: Path, data: bytes) -> None:
    """A reader sees the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(path)


class Record:
    """Keeps both files of one node. Every change of status is written at once; progress only where it shows."""

    def __init__(self, run_dir: Path, status: RunStatus) -> None:
        self.status = status
        self._run_dir = run_dir
        self._path = node_file(run_dir, "status.json", status.node)
        self._seq = status.seq
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._events = os.open(node_file(run_dir, "events.jsonl", status.node), flags, 0o644)

    def run(self, event: EventName, state: State, reason: str = "") -> None:
        """The run on this node changed."""
        self._write(event, reason=reason or None)
        self._replace(state=state, since=time.time(), reason=reason or self.status.reason)

    def process(self, name: str, event: EventName, changes: dict[str, Any], **fields: Any) -> None:
        """A process changed: `changes` go to its status, `fields` to the event."""
        before = self.status.processes[name]
        if changes.get("state", before.state) is not before.state:
            changes = {**changes, "since": time.time()}
        after = msgspec.structs.replace(before, **changes)
        self._write(event, process=name, incarnation=after.incarnation, **fields)
        self._replace(processes={**self.status.processes, name: after})
        self._judge()

    def close(self) -> None:
        """No more events."""
        os.close(self._events)

    def _judge(self) -> None:
        """Whether all processes are ready makes the run ready, or degraded."""
        ready = all(p.state is State.READY for p in self.status.processes.values())
        if ready and self.status.state in (State.STARTING, State.DEGRADED):
            self.run("ready", State.READY)
        elif not ready and self.status.state is State.READY:
            self._replace(state=State.DEGRADED, since=time.time())

    def _write(self, event: EventName, **fields: Any) -> None:
        self._seq += 1
        line = Event(
            seq=self._seq,
            wall=round(time.time(), 6),
            monotonic=round(time.monotonic(), 6),
            node=self.status.node,
            event=event,
            **fields,
        )
        os.write(self._events, msgspec.json.encode(line) + b"\n")
        # What the page cache holds survives the death of every process; only an end must survive the node's.
        if event in ("exited", "failed", "stopped"):
            os.fsync(self._events)

    def _replace(self, **changes: Any) -> None:
        self.status = msgspec.structs.replace(self.status, seq=self._seq, **changes)
        write_atomically(self._path, msgspec.json.format(msgspec.json.encode(self.status), indent=2) + b"\n")
