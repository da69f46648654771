"""How far a campaign is, in `status.json` for programs and as lines for people."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
from rich.table import Table

from dynamoc.launcher.campaign.state import State
from dynamoc.launcher.campaign.store import STATUS
from dynamoc.launcher.results.row import Row, Spread
from dynamoc.runtime.agent.record import write_atomically

HOUR_S = 3600.0
WRITE_S = 0.5


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The result with the most output tokens a second for each allocated GPU, of those that keep to the SLA."""

    point: str
    deployment: str
    values: dict[str, Any]
    load: str
    output_tokens_per_s: float
    per_gpu: float | None
    ttft_p99_ms: float | None
    tpot_p99_ms: float | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`status.json`. Points are counted with their repeats; `most` bounds them, as a search may end early."""

    name: str
    target: str
    state: str
    most: int
    done: int
    failed: int
    left_out: int
    pruned: int
    gpu_hours: float
    eta_s: float | None
    failures: dict[str, int]
    best: Best | None
    updated: float


class StatusWriter:
    """Keeps `status.json` of a running campaign, at most twice a second."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pruned = len(state.store.pruned())
        self._values = {one.id: one.values for one in state.deployments}
        self._began = time.monotonic()
        self._before = sum(state.counts()[name] for name in ("done", "failed"))
        self._written = 0.0
        self._lock = threading.Lock()

    def tick(self) -> Status | None:
        """Write if it is time to; what was written."""
        with self._lock:
            if time.monotonic() - self._written < WRITE_S:
                return None
            self._written = time.monotonic()
        return self.write("running")

    def write(self, state: str) -> Status:
        """Write now."""
        status = self.now(state)
        path = self._state.store.folder / STATUS
        write_atomically(path, msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n")
        return status

    def now(self, state: str) -> Status:
        """How far it is."""
        settings, counts = self._state.settings, self._state.counts()
        failures: dict[str, int] = {}
        for failure in self._state.failures().values():
            failures[failure.cause] = failures.get(failure.cause, 0) + 1
        return Status(
            name=settings.name,
            target=settings.target,
            state=state,
            **counts,
            pruned=self._pruned,
            gpu_hours=round(self._state.gpu_s / HOUR_S, 4),
            eta_s=self._eta_s(counts) if state == "running" else None,
            failures=failures,
            best=self._best(self._state.best),
            updated=round(time.time(), 3),
        )

    def _eta_s(self, counts: Any) -> float | None:
        over = counts["done"] + counts["failed"]
        left = counts["most"] - over - counts["left_out"]
        fresh = over - self._before
        return round((time.monotonic() - self._began) / fresh * left, 1) if fresh > 0 else None

    def _best(self, row: Row | None) -> Best | None:
        if row is None:
            return None
        return Best(
            point=row.point,
            deployment=row.labels["deployment"],
            values=self._values.get(row.labels["deployment"], {}),
            load=row.labels["load"],
            output_tokens_per_s=row.output_tokens_per_s,
            per_gpu=row.output_tokens_per_s / row.gpus_allocated if row.gpus_allocated else None,
            ttft_p99_ms=_p99(row.ttft_ms),
            tpot_p99_ms=_p99(row.tpot_ms),
        )


def status_table(status: Status) -> Table:
    """The same for people."""
    table = Table.grid(padding=(0, 2))
    over = status.done + status.failed + status.left_out
    table.add_row("campaign", f"{status.name} ({status.target}), {status.state}")
    table.add_row(
        "points",
        f"{over} of at most {status.most}: {status.done} measured, {status.failed} failed, "
        f"{status.left_out} left out; {status.pruned} pruned before",
    )
    if status.failures:
        table.add_row("failures", ", ".join(f"{count} {cause}" for cause, count in sorted(status.failures.items())))
    table.add_row("GPU-hours", f"{status.gpu_hours:g}")
    if status.eta_s is not None:
        table.add_row("left", f"about {status.eta_s:.0f} s")
    if status.best is not None:
        table.add_row("best so far", _spelled(status.best))
    return table


def _spelled(best: Best) -> str:
    values = ", ".join(f"{name} = {value}" for name, value in best.values.items())
    per_gpu = f" ({best.per_gpu:.1f} a GPU)" if best.per_gpu is not None else ""
    return f"{best.output_tokens_per_s:.1f} tokens/s{per_gpu} at {best.load} with {values or 'the base spec'}"


def _p99(spread: Spread | None) -> float | None:
    return None if spread is None else spread.p99
