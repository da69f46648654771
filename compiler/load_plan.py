"""The load of a plan as a list of points: what whoever makes the requests is told, in `load.json`."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

import msgspec

from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.graph import Load
from dynamoc.compiler.plan import Plan

FILE = "load.json"
REQUESTS_EACH = 10
"""Requests of a point for each in flight: enough that the filling and the emptying of the pipeline weigh little."""
RATE_WINDOW_S = 30.0
REQUESTS_AT_ONCE = 100
DEADLINE_S = 3600.0


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of requests in Mooncake's format, replayed at the times it has, divided by `speedup`.

    `block_tokens` is how many tokens each of its hashes stands for.
    """

    path: str
    block_tokens: int = 512
    speedup: float = 1.0


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
    isl_stddev: float = 0.0
    osl_stddev: float = 0.0
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
    deadline = DEADLINE_S if limit is None else limit / len(in_flight)
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


def _point(load: Load, concurrency: int | None, rate: float | None, deadline_s: float) -> LoadPoint:
    if concurrency is not None:
        default = REQUESTS_EACH * concurrency
    else:
        default = REQUESTS_AT_ONCE if rate is None else max(1, math.ceil(rate * RATE_WINDOW_S))
    requests = default if load.requests is None else load.requests
    warmup = min(concurrency or 1, requests) if load.warmup_requests is None else load.warmup_requests
    names = ([f"c{concurrency}"] if concurrency is not None else []) + ([f"r{rate:g}"] if rate is not None else [])
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
    )
