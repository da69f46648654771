"""What makes the requests: the seam behind which the built-in client and others look alike."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dynamoc.launcher.load.point import LoadError, LoadPoint, RequestRecord, Target

GENERATORS: Mapping[str, str] = {
    "builtin": "dynamoc.launcher.load.builtin",
    "aiperf": "dynamoc.launcher.load.aiperf",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a generator saw of one point, warm-up left out. Times on the wall clock, in seconds."""

    records: tuple[RequestRecord, ...]
    started: float
    ended: float
    complete: bool
    """Whether every request was made and answered before the deadline."""
    client_limit: str | None = None
    """What of the generator was the limit, with the figures that show it; None if nothing was."""
    requests: int | None = None
    """How many were to be made, where the point leaves that to its trace."""
    warmup_requests: int | None = None
    """How many were made before, where that is not what the point asks for."""


IsUnwanted = Callable[[], bool]


def never() -> bool:
    """Of a load that is wanted to its end."""
    return False


class LoadGenerator(Protocol):
    """One per tool; a module's `generator(program)` makes it."""

    @property
    def name(self) -> str:
        """As a spec says it."""
        ...

    @property
    def version(self) -> str:
        """As it says it."""
        ...

    def run(
        self, point: LoadPoint, target: Target, folder: Path, deadline_s: float, is_unwanted: IsUnwanted = never
    ) -> Measured:
        """Make the load of a point; the tool's own files go to `folder`, which is there and empty.

        Ends after `deadline_s` at the latest, and soon after nobody wants it any more. What goes wrong with a request
        is in its record; LoadError is for what keeps the tool itself from working.
        """
        ...


def load_generator(name: str, program: str | None = None) -> LoadGenerator:
    """A registered generator, where it is a program of its own the one that is named; LoadError otherwise."""
    if name not in GENERATORS:
        known = ", ".join(f"`{tool}`" for tool in GENERATORS)
        raise LoadError(f"there is no load tool `{name}` here; this version has {known}")
    try:
        found: LoadGenerator = importlib.import_module(GENERATORS[name]).generator(program)
    except ImportError as error:
        raise LoadError(f"the load tool `{name}` is not installed: {error}") from error
    return found
