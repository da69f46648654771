"""The load of a plan as a list of points: what whoever makes the requests is told, in `load.json`."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Any

import msgspec

from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.load import Load, Replay
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.trace_facts import DEFAULT_BLOCK_TOKENS

FILE = "load.json"
REQUESTS_EACH = 10
"""Requests of a point for each in flight: enough that the filling and the emptying of the pipeline weigh little."""
RATE_WINDOW_S = 30.0
REQUESTS_AT_ONCE = 100
DEADLINE_S = 3600.0
NO_SPREAD = 0.0
"""Left out where a point is written: that asks whether it is this very object."""


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of requests in Mooncake's format, replayed at the times it has, divided by `speedup`.

    `block_tokens` is how many tokens each of its hashes stands for, `digest` the SHA-256 of what was proved.
    """

    path: str
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    speedup: float = 1.0
    digest: str = ""


class LoadPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One load: lengths in tokens, how many requests in flight, how many a second (None: no limit of its own).

    Each prompt shares the first `shared_prefix` of its `isl` with those of the same group, of `prefixes` groups. With a
    deviation, lengths are normal, never further from the mean than twice that. A point ends after `deadline_s`, done or
    not. With a trace, lengths and times are its own, `isl` and `osl` bound them, and `requests` None takes all of it.
    """

    id: str
    isl: int
    osl: int
    requests: int | None
    warmup_requests: int
    concurrency: int | None
    rate: float | None
    shared_prefix: float
    seed: int
    deadline_s: float
    prefixes: int = 1
    isl_stddev: float = NO_SPREAD
    osl_stddev: float = NO_SPREAD
    trace: Trace | None = None


class LoadPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Every point in order, the tool that makes them, and the GPUs that are set aside while it does.

    `program` is the tool where the site has it elsewhere than is usual.
    """

    tool: str
    gpus_allocated: int
    points: tuple[LoadPoint, ...]
    program: str | None = None


def load_artifacts(plan: Plan, gpus_allocated: int) -> Artifacts:
    """`load.json`, or nothing where the spec asks for no load to be made."""
    load = load_plan(plan, gpus_allocated)
    if load is None:
        return ()
    text = msgspec.json.format(msgspec.json.encode(load), indent=2).decode() + "\n"
    return (Artifact(PurePosixPath(FILE), text),)


def load_plan(plan: Plan, gpus_allocated: int) -> LoadPlan | None:
    """The points of the spec's load; None where it has none."""
    load = plan.graph.load
    if load is None or not load.is_made:
        return None
    rate = None if load.request_rate in (None, math.inf) else load.request_rate
    in_flight: list[int | None] = [*_in_flight(load, plan)] or [None]
    limit = plan.graph.time_limit_s
    deadline = DEADLINE_S + _lasts_s(load) if limit is None else limit / len(in_flight)
    points = tuple(_point(load, concurrency, rate, deadline) for concurrency in in_flight)
    program = plan.cluster.site.get(load.tool)
    return LoadPlan(tool=load.tool, gpus_allocated=gpus_allocated, points=points, program=program)


def gpus_working(plan: Plan) -> int:
    """How many GPUs processes of the plan use."""
    return len({(p.node, gpu) for p in plan.processes for gpu in p.gpus})


def _in_flight(load: Load, plan: Plan) -> tuple[int, ...]:
    """Each number once; where workers have no GPUs, each of them counts as one."""
    numbers = list(load.concurrency)
    if load.concurrency_per_gpu is not None:
        units = gpus_working(plan) or sum(p.component.role.is_worker for p in plan.processes)
        numbers.append(max(1, round(load.concurrency_per_gpu * units)))
    return tuple(dict.fromkeys(numbers))


def said_of(point: LoadPoint) -> dict[str, Any]:
    """A point as a spec says it."""
    fields: dict[str, Any] = {
        "isl": point.isl,
        "osl": point.osl,
        "isl_stddev": point.isl_stddev or None,
        "osl_stddev": point.osl_stddev or None,
        "concurrency": point.concurrency,
        "request_rate": point.rate,
        "requests": point.requests,
        "warmup_requests": point.warmup_requests,
        "shared_prefix": point.shared_prefix or None,
        "prefixes": None if point.prefixes == 1 else point.prefixes,
        "seed": point.seed or None,
    }
    if point.trace is not None:
        trace = point.trace
        fields |= {"trace": trace.path, "trace_speed": trace.speedup, "trace_block_tokens": trace.block_tokens}
    elif point.concurrency is None and point.rate is None:
        fields["request_rate"] = "inf"
    return {name: value for name, value in fields.items() if value is not None}


def _lasts_s(load: Load) -> float:
    """How long the requests of a trace take to be sent; 0 where they have no times of their own."""
    facts = None if load.trace is None else load.trace.facts
    return 0.0 if facts is None or load.trace is None else facts.lasts_s / load.trace.speed


def _trace(replay: Replay | None) -> Trace | None:
    if replay is None:
        return None
    path, digest = (replay.path, "") if replay.facts is None else (replay.facts.path, replay.facts.digest)
    return Trace(path=path, block_tokens=replay.block_tokens, speedup=replay.speed, digest=digest)


def _requests(load: Load, concurrency: int | None, rate: float | None) -> int | None:
    """How many where the load does not say; None for all of a trace."""
    if load.trace is not None:
        return None
    if concurrency is not None:
        return REQUESTS_EACH * concurrency
    return REQUESTS_AT_ONCE if rate is None else max(1, math.ceil(rate * RATE_WINDOW_S))


def _point(load: Load, concurrency: int | None, rate: float | None, deadline_s: float) -> LoadPoint:
    requests = _requests(load, concurrency, rate) if load.requests is None else load.requests
    warmup = min(concurrency or 1, requests or 1) if load.warmup_requests is None else load.warmup_requests
    names = ([f"c{concurrency}"] if concurrency is not None else []) + ([f"r{rate:g}"] if rate is not None else [])
    names += ["trace"] if load.trace is not None else []
    return LoadPoint(
        id="-".join(names) or "at-once",
        isl=load.isl,
        osl=load.osl,
        requests=requests,
        warmup_requests=warmup,
        concurrency=concurrency,
        rate=rate,
        shared_prefix=load.shared_prefix,
        seed=load.seed,
        deadline_s=deadline_s,
        prefixes=load.prefixes,
        isl_stddev=load.isl_stddev or NO_SPREAD,
        osl_stddev=load.osl_stddev or NO_SPREAD,
        trace=_trace(load.trace),
    )
