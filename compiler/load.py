"""The traffic of a graph: lengths, what keeps the workers busy, and how long its longest request may be."""

from __future__ import annotations

import msgspec

from dynamoc.compiler.diagnostics import Path
from dynamoc.compiler.trace_facts import DEFAULT_BLOCK_TOKENS, Extent, TraceFacts

DEFAULT_TOOL = "builtin"
FURTHEST = 2
"""Lengths that vary are never further from their mean than so many deviations."""


class Replay(msgspec.Struct, frozen=True):
    """A trace whose requests are sent at the times that it has, divided by `speed`; `path` is as it was written."""

    path: str
    speed: float = 1.0
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    facts: TraceFacts | None = None


class Load(msgspec.Struct, frozen=True):
    """The traffic the user expects: lengths in tokens, requests in flight, requests per second (`inf`: all at once).

    With a trace, lengths and times are its own, `isl` and `osl` bound them, and `requests` None takes all of it.
    """

    isl: int
    osl: int
    isl_stddev: float = 0.0
    osl_stddev: float = 0.0
    concurrency: tuple[int, ...] = ()
    concurrency_per_gpu: float | None = None
    request_rate: float | None = None
    requests: int | None = None
    warmup_requests: int | None = None
    shared_prefix: float = 0.0
    prefixes: int = 1
    seed: int = 0
    tool: str = DEFAULT_TOOL
    trace: Replay | None = None
    at: Path = ()

    @property
    def is_made(self) -> bool:
        """Whether it says how hard to push. Without, it is only expected, and nobody makes requests."""
        pushed = bool(self.concurrency) or self.concurrency_per_gpu is not None or self.request_rate is not None
        return pushed or self.trace is not None

    @property
    def extent(self) -> Extent | None:
        """What is known of the requests that are replayed."""
        facts = None if self.trace is None else self.trace.facts
        return None if facts is None else facts.extent(self.requests)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return self.extent.prompt if self.extent is not None else longest(self.isl, self.isl_stddev)

    @property
    def longest_request(self) -> int:
        """Tokens of the longest prompt with its answer."""
        if self.extent is not None:
            return self.extent.together
        return self.longest_prompt + longest(self.osl, self.osl_stddev)


def longest(mean: int, stddev: float) -> int:
    """The longest that is drawn around a mean."""
    return round(mean + FURTHEST * stddev)


def prompt_sum(load: Load) -> str:
    """How long the longest prompt is, with its arithmetic."""
    if load.extent is not None:
        return f"the longest prompt of the trace = {load.longest_prompt}"
    spread = _spread("isl", load.isl_stddev)
    sums = f"{load.isl}{_sum_of(load.isl_stddev)}"
    return f"isl{spread} = {sums}" + (f" = {load.longest_prompt}" if spread else "")


def request_sum(load: Load) -> str:
    """How long the longest request is, with its arithmetic."""
    if load.extent is not None:
        return f"the longest request of the trace = {load.longest_request}"
    names = f"isl{_spread('isl', load.isl_stddev)} + osl{_spread('osl', load.osl_stddev)}"
    sums = f"{load.isl}{_sum_of(load.isl_stddev)} + {load.osl}{_sum_of(load.osl_stddev)}"
    return f"{names} = {sums} = {load.longest_request}"


def _spread(name: str, stddev: float) -> str:
    return f" + {FURTHEST} x {name}_stddev" if stddev else ""


def _sum_of(stddev: float) -> str:
    return f" + {FURTHEST} x {stddev:g}" if stddev else ""
