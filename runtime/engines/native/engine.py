"""The engine's thread: commands in, steps on a runner, one report per step out."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from dynamoc.runtime import environment
from dynamoc.runtime.engines.native.arriving import Arriving, NotArrivedError
from dynamoc.runtime.engines.native.keeping import Keeping
from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.protocol import Runner
from dynamoc.runtime.engines.native.scheduler import Scheduler
from dynamoc.runtime.engines.native.sequence import Sampled, Step
from dynamoc.runtime.engines.native.tiering import Tiering
from dynamoc.runtime.engines.protocol import EngineRequest, EngineStats, RequestKey, StepReport, Written
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import Pool
from dynamoc.runtime.kv.tiers.device import Device, device_of
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import page_format
from dynamoc.runtime.kv.tiers.stack import TierStack
from dynamoc.runtime.kv.transfer.measured import Measured
from dynamoc.runtime.manifest import CacheSettings, WorkerSettings
from dynamoc.runtime.plane.messages import KvEvent, TokenOutput

log = logging.getLogger(__name__)

IDLE_CHECK_S = 1.0
"""Idle for so long, the engine checks its own books."""

STOP_TIMEOUT_S = 30.0
"""A step under way must end within this time."""


class CoreEngine:
    """An `Engine` made of a scheduler and a runner."""

    def __init__(
        self, name: str, runner: Runner, settings: WorkerSettings, identity: Callable[[], str] | None = None
    ) -> None:
        """`identity` tells this model's weights from all others; pages in the KV tiers are good for no other."""
        self.name = name
        self._identity = identity or (lambda: name)
        self._device: Device | None = None
        self._stack: TierStack | None = None
        self._keeping: Keeping | None = None
        self._runner = runner
        self._settings = settings
        self._commands: deque[Callable[[Scheduler], None]] = deque()
        # `_wake` guards the commands and `_stopping`; `_books` the scheduler, which `resident` reads from elsewhere.
        self._wake = threading.Condition()
        self._books = threading.Lock()
        self._stopping = False
        self._closed = False
        self._scheduler: Scheduler | None = None
        self._thread: threading.Thread | None = None
        self._stats = EngineStats()
        self._on_written: Callable[[Written], None] | None = None

    def load(self, progress: Callable[[float, str], None]) -> None:
        """Load the runner; its pool's size is what the scheduler goes by."""
        self._runner.load(progress)
        self._scheduler = Scheduler(self._settings, self._runner.pool().blocks, self._runner.eos_token_ids)
        if self._runner.kept is not None:
            self._keeping = Keeping(self._runner.kept, self._scheduler.blocks, self._post_call)
        if self._settings.cache is not None and self._settings.kv.prefix_caching:
            self._open_tiers(self._scheduler, self._settings.cache)

    def layout(self) -> KvLayout:
        """Shape of the pool."""
        return self._runner.layout()

    def pool(self) -> Pool:
        """The pool that peers may write to."""
        return self._runner.pool()

    def keeping(self) -> Keeping | None:
        """Between lives of the pool."""
        return self._keeping

    def start(self, on_step: Callable[[StepReport], None], on_written: Callable[[Written], None] | None = None) -> None:
        """Start the thread; RuntimeError before `load` or a second time."""
        if self._scheduler is None or self._thread is not None:
            raise RuntimeError("an engine is loaded once, then started once")
        self._on_written = on_written
        arguments = (self._scheduler, on_step)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"engine-{self.name}", daemon=True)
        self._thread.start()
        if self._keeping is not None:
            self._look()  # there is something in the cache to tell of

    def add(self, request: EngineRequest) -> None:
        """Queue a request."""
        self._post(lambda scheduler: scheduler.add(request))

    def reserve(self, request: EngineRequest, answer_s: float | None = None) -> None:
        """Queue a request for blocks that a peer will fill."""
        self._post(lambda scheduler: scheduler.reserve(request, answer_s))

    def resume(self, key: RequestKey, first: TokenOutput) -> None:
        """The reserved blocks are filled."""
        self._post(lambda scheduler: scheduler.resume(key, first))

    def compute(self, key: RequestKey) -> None:
        """The reserved blocks will not be filled."""
        self._post(lambda scheduler: scheduler.compute(key))

    def quarantine(self, key: RequestKey) -> None:
        """The reserved blocks may still be written to."""
        self._post(lambda scheduler: scheduler.quarantine(key))

    def release(self, key: RequestKey) -> None:
        """Nobody else uses the blocks any more."""
        self._post(lambda scheduler: scheduler.release(key))

    def cancel(self, key: RequestKey) -> None:
        """Drop a request."""
        self._post(lambda scheduler: scheduler.cancel(key))

    def resident(self) -> list[KvEvent]:
        """What is in the prefix cache now."""
        if self._scheduler is None:
            return []
        with self._books:
            tiers = self._stack.resident() if self._stack is not None else []
            return self._scheduler.blocks.resident() + tiers

    def stop(self) -> None:
        """End the thread after the step under way; RuntimeError if that step does not end in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                raise RuntimeError(f"a step of engine `{self.name}` did not end within {STOP_TIMEOUT_S:g} s")
        if not self._closed:
            self._closed = True
            if self._stack is not None and self._device is not None:
                self._stack.close()
                self._device.close()
            self._runner.close()

    def _open_tiers(self, scheduler: Scheduler, cache: CacheSettings) -> None:
        """OSError or ValueError if a declared tier cannot be used."""
        pool = self._runner.pool()
        self._device = device_of(pool, page_format(pool.layout, self._identity()), _links)

        def on_read(blocks: list[int]) -> None:
            self._post(lambda scheduler: scheduler.read(blocks))

        def on_loaded(key: RequestKey, load: Load) -> None:
            self._post(lambda scheduler: scheduler.loaded(key, load))

        def on_arrived(key: RequestKey) -> None:
            self._post(lambda scheduler: scheduler.arrived(key))

        budget = environment.read("DYNAMOC_KV_DISK_DAILY_WRITE_BYTES")
        self._stack = TierStack(self._device, cache, on_read, self._look, daily_write_bytes=budget)
        scheduler.tiering = Tiering(self._stack, scheduler.blocks, on_loaded, on_arrived)

    def _look(self) -> None:
        """There may be news to tell."""
        self._post(lambda _scheduler: None)

    def _post_call(self, call: Callable[[], None]) -> None:
        self._post(lambda _scheduler: call())

    def _post(self, command: Callable[[Scheduler], None]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _run(self, scheduler: Scheduler, on_step: Callable[[StepReport], None]) -> None:
        busy = False
        try:
            while self._wait(scheduler, busy):
                report = self._step(scheduler)
                # A step that changed something may have made room for the next one without any command.
                busy = report is not None
                if report is not None:
                    on_step(report)
        except Exception as error:
            log.exception("engine `%s` failed", self.name)
            on_step(StepReport(stats=self._stats, failure=f"{type(error).__name__}: {error}"))

    def _wait(self, scheduler: Scheduler, busy: bool) -> bool:
        """Sleep until there is something to do; False when the engine stops."""
        with self._wake:
            if busy or self._wake.wait_for(self._has_news, IDLE_CHECK_S):
                return not self._stopping
        scheduler.check_integrity()
        with self._wake:
            self._wake.wait_for(self._has_news)
            return not self._stopping

    def _has_news(self) -> bool:
        return self._stopping or bool(self._commands)

    def _step(self, scheduler: Scheduler) -> StepReport | None:
        """Take commands, compute one step; its report if anything came of it."""
        started = time.monotonic()
        with self._books:
            while self._commands:
                self._commands.popleft()(scheduler)
            step = scheduler.schedule()
        if self._device is not None:
            self._device.computes = bool(step.chunks)
        arriving = self._arriving(step)
        try:
            sampled = self._execute(step, arriving) if step.chunks else []
        except NotArrivedError as error:
            log.warning("a step is computed again, because blocks did not arrive: %s", error)
            sampled = None
        if scheduler.tiering is not None:
            scheduler.tiering.observe(step, time.monotonic() - started, arriving, void=sampled is None)
        with self._books:
            if sampled is None:
                scheduler.undo(step)
            else:
                scheduler.finish(step, sampled)
            return self._report(scheduler, step, started)

    def _arriving(self, step: Step) -> Arriving | None:
        """What the step has to wait for."""
        loads = [chunk.sequence.arriving for chunk in step.chunks if chunk.sequence.arriving is not None]
        return Arriving(loads, self._device.format.group_layers) if loads and self._device is not None else None

    def _execute(self, step: Step, arriving: Arriving | None) -> list[Sampled]:
        if self._on_written is None or not any(chunk.sequence.hold_kv for chunk in step.chunks):
            return self._runner.execute(step, arriving=arriving)
        layout = self._runner.layout()
        progress = StepProgress(step, layout.layers, layout.block_size, self._on_written)
        sampled = self._runner.execute(step, progress, arriving)
        progress.finish()
        return sampled

    def _report(self, scheduler: Scheduler, step: Step, started: float) -> StepReport | None:
        steps, seconds = self._stats.steps, self._stats.step_seconds
        if step.chunks:
            steps, seconds = steps + 1, seconds + time.monotonic() - started
        if self._keeping is not None:
            self._keeping.flush()
        report = scheduler.take_report(steps, seconds)
        told = report.outputs or report.reserved or report.filled or report.events
        changed = bool(told or report.stats != self._stats)
        if self._stack is not None:
            report.events += self._stack.events()
            report.tiers = self._stack.report()
            changed = changed or bool(report.events) or report.tiers.has_news
        self._stats = report.stats
        return report if changed else None


def _links() -> Measured:
    # Measuring needs every transport; only a worker on a GPU with tiers does.
    from dynamoc.runtime.doctor.links import known_links

    return known_links()
