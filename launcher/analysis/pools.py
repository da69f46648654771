"""Pools measured apart: what one worker carries at a demand's lengths, never beyond what was measured."""

from __future__ import annotations

from dataclasses import dataclass

MILLI = 1000.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for. Lengths in tokens, limits in ms; `headroom` is the share of a worker's rate to plan with."""

    requests_per_s: float
    isl: float
    osl: float
    ttft_ms: float
    tpot_ms: float
    headroom: float = 0.9
    gpu_budget: int | None = None
    least_prefill: int = 1
    least_decode: int = 1


@dataclass(frozen=True, slots=True)
class PoolPoint:
    """One measurement of one worker: `batch` requests at once, each `tokens` long, took `time_ms`.

    For prefill the tokens of the prompt and the TTFT; for decode the mean context (ISL + OSL / 2) and the TPOT. Points
    of one `curve` differ in tokens alone: a concurrency, or a share of the KV pool. The mean batch may be a fraction.
    """

    gpus: int
    curve: str
    tokens: float
    time_ms: float
    batch: float


@dataclass(frozen=True, slots=True)
class Pool:
    """All measurements of one role."""

    role: str
    points: tuple[PoolPoint, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """A worker as it is best run under the limits."""

    role: str
    gpus: int
    batch: float
    time_ms: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer; words for the user."""

    reason: str


def best_engine(pool: Pool, demand: Demand) -> Engine | Refusal:
    """The most requests per second and GPU within the limit; of equals the first in the order of GPUs and curve."""
    prefill = pool.role == "prefill"
    tokens = demand.isl if prefill else demand.isl + demand.osl / 2
    limit = demand.ttft_ms if prefill else demand.tpot_ms
    answers = 1.0 if prefill else demand.osl
    if not pool.points:
        return Refusal(f"no {pool.role} worker was measured")
    timed = [(key[0], *found) for key, curve in _curves(pool) if (found := _at(curve, tokens)) is not None]
    if not timed:
        low, high = min(p.tokens for p in pool.points), max(p.tokens for p in pool.points)
        return Refusal(f"{pool.role} was measured at {low:g} to {high:g} tokens, and {tokens:g} are asked for")
    kept = [(gpus, time, batch) for gpus, time, batch in timed if time <= limit]
    if not kept:
        fastest = min(time for _, time, _ in timed)
        name = "TTFT" if prefill else "TPOT"
        return Refusal(f"the shortest {name} at {tokens:g} tokens is {fastest:.4g} ms, and {limit:g} ms is the limit")
    engines = [Engine(pool.role, gpus, batch, time, batch / (answers * (time / MILLI))) for gpus, time, batch in kept]
    return max(engines, key=lambda engine: engine.requests_per_s / engine.gpus)


Curve = dict[float, tuple[float, float]]
"""Time and batch by tokens."""


def _curves(pool: Pool) -> list[tuple[tuple[int, str], Curve]]:
    """By GPUs and name; of what was measured twice the slower counts."""
    curves: dict[tuple[int, str], Curve] = {}
    for point in sorted(pool.points, key=lambda point: (point.gpus, point.curve, point.tokens, point.time_ms)):
        curves.setdefault((point.gpus, point.curve), {})[point.tokens] = (point.time_ms, point.batch)
    return list(curves.items())


def _at(curve: Curve, tokens: float) -> tuple[float, float] | None:
    """Between neighbours; None outside of what was measured."""
    low = max((at for at in curve if at <= tokens), default=None)
    high = min((at for at in curve if at >= tokens), default=None)
    if low is None or high is None:
        return None
    if low == high:
        return curve[low]
    (time, batch), (later, fuller) = curve[low], curve[high]
    way = (tokens - low) / (high - low)
    return time + (later - time) * way, batch + (fuller - batch) * way
