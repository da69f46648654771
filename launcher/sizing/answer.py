"""A demand answered from measurements: xPyD of the best workers seen, and copies of whole deployments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from dynamoc.compiler.campaign.limits import Limit
from dynamoc.launcher.analysis.capacity import CopyPlan, Side, plan_capacity, plan_copies
from dynamoc.launcher.analysis.pools import Demand, Refusal
from dynamoc.launcher.analysis.sla import Outcome, check_limits, worst_outcome
from dynamoc.launcher.report.point_view import load_of, name_of
from dynamoc.launcher.report.points import Measured
from dynamoc.launcher.results.verdict import Standing
from dynamoc.launcher.sizing.seen import Timing, pools_seen
from dynamoc.launcher.sizing.workers import Pairs

OF_POOLS = ("ttft_ms", "tpot_ms")


class SizingError(Exception):
    """A demand that cannot be asked; the message is for the user."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: lengths in tokens, the price in dollars of a GPU-hour, the share of a rate to plan with."""

    requests_per_s: float
    isl: int
    osl: int
    sla: tuple[Limit, ...] = ()
    price: float | None = None
    headroom: float = 0.9
    gpu_budget: int | None = None


class PoolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Workers of one role: what each was seen to carry, in which time, and how much of it is used."""

    role: str
    workers: int
    gpus_each: int
    time_ms: float
    requests_per_s_each: float
    utilisation: float


class PoolsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """xPyD; `needed` carries the demand, and is more than the workers where the budget is less."""

    name: str
    needed: str
    pools: tuple[PoolAnswer, PoolAnswer]
    gpus: int
    served_per_s: float
    binding: str
    gpu_hours_per_1k: float
    price_per_hour: float | None


class CopiesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whole deployments, each under the load that it was measured under."""

    deployment: str
    name: str
    load: str
    copies: int
    gpus: int
    utilisation: float
    gpu_hours_per_1k: float
    price_per_hour: float | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Best copies first; where there is no answer of a kind, why. `units` is what figures a GPU count."""

    asked: Asked
    units: str
    pools: PoolsAnswer | None
    no_pools: str | None
    copies: tuple[CopiesAnswer, ...]
    no_copies: str | None
    notes: tuple[str, ...]


def answer(points: Sequence[Measured], pairs: Pairs, asked: Asked) -> Answer:
    """Nothing beyond what was measured; SizingError for limits that pools cannot be held to."""
    has_gpus = any(row.gpus_allocated for point in points for row in point.rows)
    asked = asked if has_gpus else msgspec.structs.replace(asked, price=None)
    pools, refusal, notes = _pools(points, pairs, asked)
    copies = sorted(_copies(points, asked), key=lambda one: (one.gpus, one.copies, -one.utilisation))
    return Answer(
        asked=asked,
        units="GPU" if has_gpus else "worker",
        pools=pools,
        no_pools=refusal,
        copies=tuple(copies),
        no_copies=None if copies else _why_no_copies(points, asked),
        notes=(*notes, *_notes(points, pairs, has_gpus=has_gpus)),
    )


def _pools(points: Sequence[Measured], pairs: Pairs, asked: Asked) -> tuple[PoolsAnswer | None, str | None, list[str]]:
    ttft, tpot = (_timing(metric, asked.sla) for metric in OF_POOLS)
    prefill, decode, alone = pools_seen(points, pairs.known, ttft, tpot)
    demand = Demand(
        asked.requests_per_s,
        asked.isl,
        asked.osl,
        ttft.limit_ms,
        tpot.limit_ms,
        asked.headroom,
        asked.gpu_budget,
    )
    plan = plan_capacity(prefill, decode, demand)
    if isinstance(plan, Refusal):
        return None, plan.reason, []
    sides = plan.prefill, plan.decode
    found = PoolsAnswer(
        name=f"{plan.prefill.workers}P{plan.decode.workers}D",
        needed=f"{plan.prefill.needed}P{plan.decode.needed}D",
        pools=(_side(plan.prefill), _side(plan.decode)),
        gpus=plan.gpus,
        served_per_s=plan.served_per_s,
        binding=plan.binding,
        gpu_hours_per_1k=plan.gpu_hours_per_1k,
        price_per_hour=None if asked.price is None else plan.gpus * asked.price,
    )
    return found, None, list(_notes_of_pools(sides, pairs, asked, alone=alone))


def _timing(metric: str, sla: Sequence[Limit]) -> Timing:
    limits = [limit for limit in sla if limit.metric == metric]
    if len(limits) > 1:
        raise SizingError(f"a pool is held to one limit of `{metric}`, and there are {len(limits)}")
    if limits and limits[0].relation != "<=":
        raise SizingError(f"`{limits[0]}`: a time has a largest value, `<=`")
    return Timing(metric, limits[0].statistic, limits[0].bound) if limits else Timing(metric)


def _side(side: Side) -> PoolAnswer:
    return PoolAnswer(
        role=side.engine.role,
        workers=side.workers,
        gpus_each=side.engine.gpus,
        time_ms=side.engine.time_ms,
        requests_per_s_each=side.engine.requests_per_s,
        utilisation=side.utilisation,
    )


def _notes_of_pools(sides: tuple[Side, Side], pairs: Pairs, asked: Asked, *, alone: bool) -> Iterator[str]:
    others = [str(limit) for limit in asked.sla if limit.metric not in OF_POOLS]
    if others:
        yield f"pools are not held to {', '.join(others)}: what they measure is of whole deployments"
    if alone:
        yield "pools that were measured alone are held to their mean times"
    widest = [
        max((getattr(pair, side.engine.role).workers for pair in pairs.known.values()), default=0) for side in sides
    ]
    if pairs.known and any(side.workers > most for side, most in zip(sides, widest, strict=True)):
        yield (
            f"at most {widest[0]} prefill and {widest[1]} decode workers were measured together: "
            "what a frontend, a router or a network costs beyond that is not in these figures"
        )
    if pairs.known:
        yield "a worker is taken for what it carried in a deployment; what the other pool kept it from is not guessed"


def _copies(points: Sequence[Measured], asked: Asked) -> Iterator[CopiesAnswer]:
    for point in points:
        if point.verdict.standing is not Standing.VALID or _lengths(point) != (asked.isl, asked.osl):
            continue
        outcome = worst_outcome([check for row in point.rows for check in check_limits(row, asked.sla)])
        rate = min(row.requests_per_s for row in point.rows)
        gpus = point.rows[0].gpus_allocated or 0
        plan = plan_copies(rate, gpus, asked.requests_per_s, asked.headroom)
        if outcome is not Outcome.MET or isinstance(plan, Refusal):
            continue
        if asked.gpu_budget is None or plan.gpus <= asked.gpu_budget:
            yield _copy(point, plan, asked)


def _copy(point: Measured, plan: CopyPlan, asked: Asked) -> CopiesAnswer:
    return CopiesAnswer(
        deployment=point.deployment,
        name=name_of(point.values) or point.deployment,
        load=load_of(point.rows[0])[0],
        copies=plan.copies,
        gpus=plan.gpus,
        utilisation=plan.utilisation,
        gpu_hours_per_1k=plan.gpu_hours_per_1k,
        price_per_hour=None if asked.price is None else plan.gpus * asked.price,
    )


def _lengths(point: Measured) -> tuple[int, int]:
    row = point.rows[0]
    return row.isl_asked or round(row.isl), row.osl_asked or round(row.osl)


def _why_no_copies(points: Sequence[Measured], asked: Asked) -> str:
    valid = [point for point in points if point.verdict.standing is Standing.VALID]
    lengths = sorted({_lengths(point) for point in valid})
    if not valid:
        return f"none of {len(points)} points is valid"
    if (asked.isl, asked.osl) not in lengths:
        known = ", ".join(f"{isl} in, {osl} out" for isl, osl in lengths)
        return f"deployments were measured with {known}; {asked.isl} in, {asked.osl} out are asked for"
    limits = " and ".join(map(str, asked.sla)) or "every limit"
    budget = "" if asked.gpu_budget is None else f" within {asked.gpu_budget} GPUs"
    return f"no valid point of these lengths keeps {limits}{budget}"


def _notes(points: Sequence[Measured], pairs: Pairs, *, has_gpus: bool) -> Iterator[str]:
    if not has_gpus:
        yield "nothing was measured on GPUs: each worker counts as one, and nothing has a price"
    if any(point.simulated for point in points):
        yield "some of it is simulated time, which nobody measured"
    doubtful = sum(point.verdict.standing is not Standing.VALID for point in points)
    if doubtful:
        yield f"{doubtful} of {len(points)} points are suspect or invalid, and left out"
    if pairs.unread:
        yield f"{len(pairs.unread)} deployments do not compile with this version: their pools are not known"
