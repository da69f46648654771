"""Keeps one process of the plan alive, within its restart policy."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dynamoc.runtime.agent.life import GpuError, Life, Said
from dynamoc.runtime.agent.log import pattern_of
from dynamoc.runtime.agent.markers import marker_in
from dynamoc.runtime.agent.reaper import Exit
from dynamoc.runtime.agent.record import EventName, Record, State, write_atomically
from dynamoc.runtime.manifest import ProcessSpec, RestartPolicy

EVIDENCE_LINES = 50
LOOK_S = 1.0
BOUND_S = 10.0
OTHERS_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
"""By which somebody else ends a process; of a start they say nothing."""
MAX_BACKOFF_S = 30.0
PROGRESS_STEP = 0.01

Hear = Callable[[Said], None]
Launch = Callable[[ProcessSpec, int, Hear], Life]


class ProcessError(Exception):
    """A process died more often than its policy allows; the run cannot go on."""


class Restarts:
    """How many restarts there were lately, and how long to wait before the next."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._times: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Seconds to wait, doubling with each restart in the window; None when the limit is reached."""
        while self._times and now - self._times[0] > self._policy.window_s:
            self._times.popleft()
        if len(self._times) >= self._policy.limit:
            return None
        self._times.append(now)
        doublings = min(len(self._times) - 1, 20)  # far above the cap, and no overflow
        return min(self._policy.backoff_s * 2.0**doublings, MAX_BACKOFF_S)


class Supervisor:
    """One process and all its lives. `run` ends after `stop`, or with ProcessError."""

    def __init__(self, spec: ProcessSpec, incarnation: int, launch: Launch, record: Record, run_dir: Path) -> None:
        self.spec = spec
        self._incarnation = incarnation
        self._launch = launch
        self._record = record
        self._run_dir = run_dir
        self._restarts = Restarts(spec.restart)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._said = ""
        self._fraction = 0.0
        self._was_ready = False
        self._failed_as = ""

    async def run(self) -> None:
        """Start, watch and restart until told to stop."""
        while not self._stop.is_set():
            before, self._failed_as = self._failed_as, ""
            reason, evidence = await self._live()
            if self._stop.is_set():
                break
            if self._failed_as and self._failed_as == before:
                self._fail(f"{reason}; it failed the same way twice and was never ready", evidence)
            delay = self._restarts.next_delay(asyncio.get_running_loop().time())
            if delay is None:
                policy = self.spec.restart
                self._fail(f"{reason}; {policy.limit} restarts within {policy.window_s:g} s are allowed", evidence)
            await self._back_off(delay, reason)
        self._note("stopped", {"state": State.STOPPED, "pid": None})

    def stop(self) -> None:
        """Drain and stay stopped."""
        self._stop.set()

    def hurry(self) -> None:
        """Wait for no drain."""
        self._stop.set()
        self._hurry.set()

    # ---- one life -------------------------------------------------------------------------------------

    async def _live(self) -> tuple[str, str]:
        """From start to burial; why it ended and where the evidence is (both empty after a stop)."""
        self._said, self._fraction = "", 0.0
        try:
            life = self._launch(self.spec, self._incarnation, self._hear)
        except (OSError, GpuError) as error:
            self._fail(f"cannot be started: {error}", "")
        changes = {
            "state": State.STARTING,
            "pid": life.pid,
            "incarnation": self._incarnation,
            "fraction": 0.0,
            "what": "",
        }
        self._note("starting", changes, pid=life.pid, details={"argv": list(life.argv), "log": str(life.log.path)})
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        try:
            forced = await self._watch(life, stop)
            ended = await life.exited
        finally:
            stop.cancel()
        buried = await life.bury()
        return self._end(life, ended, forced, buried)

    async def _watch(self, life: Life, stop: asyncio.Future[Any]) -> str:
        """Until the process is gone or about to be; why we ended it, empty if it ended by itself."""
        hopeless = await self._start(life, stop)
        if life.ready.done():
            details = life.ready.result() or None
            changes = {"state": State.READY, "fraction": 1.0, "what": "", "reason": ""}
            self._was_ready = True
            self._note("ready", changes, seconds=life.seconds, details=details)
            while not (life.exited.done() or stop.done()):
                await asyncio.wait({life.exited, stop}, timeout=BOUND_S, return_when=asyncio.FIRST_COMPLETED)
                life.log.bound()
        if life.exited.done():
            return ""
        if stop.done():
            return await self._drain(life)
        life.kill()
        if hopeless:
            return f"never ready: {hopeless}, and no word since"
        at = self._record.status.processes[self.spec.name].what
        return f"not ready within {self.spec.ready_timeout_s:g} s" + (f" (was at: {at})" if at else "")

    async def _start(self, life: Life, stop: asyncio.Future[Any]) -> str:
        """Until it is ready, gone, to be stopped, late, or, as its log says, without hope: then why."""
        turns: tuple[asyncio.Future[Any], ...] = (life.ready, life.exited, stop)
        while life.seconds < self.spec.ready_timeout_s:
            left = max(0.0, self.spec.ready_timeout_s - life.seconds)
            done, _ = await asyncio.wait(turns, timeout=min(LOOK_S, left), return_when=asyncio.FIRST_COMPLETED)
            hopeless = life.log.hopeless()
            if done or hopeless:
                return "" if done else str(hopeless)
        return ""

    async def _drain(self, life: Life) -> str:
        self._note("draining", {"state": State.DRAINING}, pid=life.pid)
        life.terminate()
        hurry: asyncio.Future[Any] = asyncio.ensure_future(self._hurry.wait())
        limit = self.spec.drain_timeout_s
        await asyncio.wait({life.exited, hurry}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        hurried = hurry.done()
        hurry.cancel()
        if life.exited.done():
            return ""
        life.kill()
        return "killed while draining, as asked" if hurried else f"killed: not stopped {limit:g} s after SIGTERM"

    def _end(self, life: Life, ended: Exit, forced: str, buried: bool) -> tuple[str, str]:
        reason = forced or (f"{ended}: {self._said}" if self._said else str(ended))
        asked = self._stop.is_set()
        if not asked:
            reason = self._explain(life, ended, forced, reason)
        if not buried:
            reason += "; a process it started would not die"
        evidence = "" if asked else self._keep_evidence(life, reason)
        self._note(
            "exited",
            {"pid": None, "reason": "" if asked and not forced else reason, "evidence": evidence},
            pid=life.pid,
            status=ended.status,
            signal=ended.signal,
            seconds=life.seconds,
            reason=reason,
            evidence=evidence or None,
        )
        return ("", "") if asked else (reason, evidence)

    def _explain(self, life: Life, ended: Exit, forced: str, reason: str) -> str:
        """What the log says of an end by itself. Remembers how a start failed that had never succeeded."""
        tail = life.log.last_lines(EVIDENCE_LINES)
        marker = marker_in(tail) if ended.status else None
        if not self._was_ready and (forced or ended.signal not in OTHERS_SIGNALS):
            self._failed_as = forced or f"{ended}: {self._said}: {pattern_of(tail)}"
        return f"{reason}: {marker}" if marker and not self._said else reason

    def _keep_evidence(self, life: Life, reason: str) -> str:
        path = self._run_dir / "evidence" / f"{self.spec.name}-{self._incarnation}.txt"
        path.parent.mkdir(exist_ok=True)
        head = (
            f"{self.spec.name}, incarnation {self._incarnation}, pid {life.pid}, after {life.seconds:.1f} s: {reason}\n"
        )
        words = f"argv: {' '.join(life.argv)}\nlast {EVIDENCE_LINES} lines of {life.log.path.name}:\n\n"
        write_atomically(path, (head + words + life.log.last_lines(EVIDENCE_LINES)).encode())
        return str(path.relative_to(self._run_dir))

    # ---- between two lives ----------------------------------------------------------------------------

    async def _back_off(self, delay: float, reason: str) -> None:
        self._incarnation += 1
        restarts = self._record.status.processes[self.spec.name].restarts + 1
        self._note("restarting", {"state": State.RESTARTING, "restarts": restarts}, seconds=delay, reason=reason)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay)

    def _fail(self, reason: str, evidence: str) -> NoReturn:
        self._note("failed", {"state": State.FAILED, "reason": reason}, reason=reason, evidence=evidence or None)
        raise ProcessError(f"`{self.spec.name}` {reason}")

    # ---- what the process says ------------------------------------------------------------------------

    def _hear(self, said: Said) -> None:
        if said.event == "failed":
            self._said = said.reason
            return
        known = self._record.status.processes[self.spec.name].what
        if said.what != known or said.fraction >= self._fraction + PROGRESS_STEP:
            self._fraction = said.fraction
            words = {"fraction": said.fraction, "what": said.what}
            self._note("progress", words, **words)

    def _note(self, event: EventName, changes: dict[str, Any], **fields: Any) -> None:
        self._record.process(self.spec.name, event, changes, **fields)
