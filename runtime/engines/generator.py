"""What answers requests, wherever it computes: an engine of this package, or the server of another program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dynamoc.runtime.engines.protocol import Engine, EngineRequest, RequestKey, StepReport, Written
from dynamoc.runtime.plane.messages import KvEvent


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the router must know of a KV pool. Workers of one component have equal `digest`s."""

    block_size: int
    blocks: int
    digest: str


class Generator(Protocol):
    """The part of an `Engine` that does not depend on who moves KV; what is said there holds."""

    name: str

    def start(self, on_step: Callable[[StepReport], None], on_written: Callable[[Written], None] | None = None) -> None:
        """Begin."""
        ...

    def add(self, request: EngineRequest) -> None:
        """Take a request."""
        ...

    def cancel(self, key: RequestKey) -> None:
        """Drop a request."""
        ...

    def resident(self) -> list[KvEvent]:
        """All blocks that are resident."""
        ...


def capacity_of(engine: Engine, model: str) -> Capacity:
    """The pool of a loaded engine."""
    layout = engine.layout()
    return Capacity(layout.block_size, engine.pool().blocks, layout.digest(model))
