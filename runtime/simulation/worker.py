"""A worker on a simulated clock: the native scheduler, with the mocker's arithmetic for the time of a step."""

from __future__ import annotations

from dynamoc.runtime.engines.arguments import read_arguments
from dynamoc.runtime.engines.mocker import MockArguments, step_seconds
from dynamoc.runtime.engines.native.scheduler import Scheduler
from dynamoc.runtime.engines.native.sequence import Sampled, Step
from dynamoc.runtime.engines.protocol import StepReport
from dynamoc.runtime.manifest import ProcessSpec
from dynamoc.runtime.plane.messages import WorkerAddress, WorkerInfo

ENGINE = "mocker"
NO_PORT = 0


class SimulatedWorker:
    """`scheduler` takes commands at any time; `begin` starts a step if none is under way, `end` ends it."""

    def __init__(self, process: ProcessSpec, model: str) -> None:
        settings = process.worker
        if settings is None or settings.engine != ENGINE:
            engine = settings.engine if settings is not None else process.role
            raise ValueError(f"`{process.name}` runs `{engine}`: only the engine `{ENGINE}` has a simulated time")
        self.process = process
        self.scheduler = Scheduler(settings, settings.kv.blocks, frozenset())
        self.next_event = 0
        self._arguments = read_arguments(ENGINE, settings.args, MockArguments)
        self._block_size = settings.kv.block_size
        self._step: Step | None = None
        self._drawn = 0
        self.steps = 0
        self.info = WorkerInfo(
            address=WorkerAddress(process.name, 0, "", NO_PORT),
            component=process.component,
            role=process.role,
            model=model,
            engine=ENGINE,
            block_size=settings.kv.block_size,
            blocks=settings.kv.blocks,
            context_length=settings.context_length,
            max_batched_tokens=settings.max_batched_tokens,
            max_sequences=settings.max_sequences,
            layout_digest="",
        )

    def begin(self) -> float | None:
        """Choose a step if none is under way; how long it takes, None if there is nothing to compute."""
        if self._step is not None:
            return None
        step = self.scheduler.schedule()
        if not step.chunks:
            return None
        self._step = step
        self.steps += 1
        return step_seconds(step, self._arguments, self._block_size)

    def end(self) -> None:
        """The step under way is over: its tokens are there, none like another's."""
        assert self._step is not None
        step, self._step = self._step, None
        samples = sum(chunk.sample for chunk in step.chunks)
        self.scheduler.finish(step, [Sampled(-(self._drawn + number + 1) % 2**32) for number in range(samples)])
        self._drawn += samples

    def news(self) -> StepReport:
        """What happened since it was last asked."""
        return self.scheduler.take_report()
