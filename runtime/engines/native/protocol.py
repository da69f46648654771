"""The seam between the engine's scheduler and the device that computes its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dynamoc.runtime.engines.native.arriving import Arriving
from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.sequence import Sampled, Step
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service.kept import KeptPool
from dynamoc.runtime.kv.pool import Pool


class Runner(Protocol):
    """Executes steps: with real weights (`native`), with a clock (`mocker`), or by echoing (`echo`)."""

    eos_token_ids: frozenset[int]
    kept: KeptPool | None
    """The pool and its journal, if it outlives this process; after `load`."""

    def load(self, progress: Callable[[float, str], None]) -> None:
        """Blocking: make the model and the pool ready."""
        ...

    def layout(self) -> KvLayout:
        """Shape of the pool; after `load`."""
        ...

    def pool(self) -> Pool:
        """The pool whose block indices the sequences carry; after `load`."""
        ...

    def execute(
        self, step: Step, progress: StepProgress | None = None, arriving: Arriving | None = None
    ) -> list[Sampled]:
        """Compute a step: one `Sampled` per chunk with `sample`, in order. Called from one thread only.

        Whoever asks for `progress` wants to hear of groups of layers; what is not said meanwhile is true at the end.
        While blocks are `arriving`, each layer is asked for before any of it is read. NotArrivedError: nothing of the
        step counts, nothing of it was told, and nothing of it is written any more.
        """
        ...

    def close(self) -> None:
        """Free the pool and the weights."""
        ...
