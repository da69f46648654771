"""What a page and the tables show of results: every figure computed, nothing left to count but sums of money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from dynamoc.compiler.campaign.limits import Limit
from dynamoc.launcher.analysis.cost import campaign_cost
from dynamoc.launcher.analysis.max_load import max_load
from dynamoc.launcher.analysis.pools import PoolPoint
from dynamoc.launcher.analysis.sla import Check, check_limits
from dynamoc.launcher.report.frontiers import Place, places, workload_of
from dynamoc.launcher.report.point_view import (
    PointView,
    check_words,
    link_to,
    load_of,
    name_of,
    rounded,
    view_of,
)
from dynamoc.launcher.report.points import Failed, Measured, PrunedPoint, Results
from dynamoc.launcher.report.pool_points import pools_of
from dynamoc.launcher.results.verdict import Standing

LOADS_OF_A_CURVE = 2


class Unmeasured(msgspec.Struct, frozen=True, kw_only=True):
    """A point without figures: failed, or pruned by a rule."""

    name: str
    rule: str
    reason: str
    notes: tuple[str, ...] = ()
    spec: str | None = None
    evidence: str | None = None


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A target as the page draws it."""

    text: str
    metric: str
    statistic: str
    bound: float


class MaxLoadView(msgspec.Struct, frozen=True, kw_only=True):
    """The largest load of a deployment under the limits."""

    deployment: str
    name: str
    workload: str
    unit: str
    feasible_max: float | None
    infeasible_min: float | None
    breach: str | None
    kept_above: tuple[float, ...]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A whole report as data."""

    title: str
    points: tuple[PointView, ...]
    failed: tuple[Unmeasured, ...]
    pruned: tuple[Unmeasured, ...]
    limits: tuple[LimitView, ...]
    workloads: tuple[str, ...]
    per_gpu: bool
    """Whether throughput is per GPU; where no point has GPUs, it is that of the whole deployment."""
    standings: dict[str, int]
    gpu_hours: float | None
    measured_gpu_hours: float | None
    max_loads: tuple[MaxLoadView, ...]
    prefill: tuple[PoolPoint, ...]
    decode: tuple[PoolPoint, ...]
    price: float | None


def make_view(results: Results, limits: Sequence[Limit], price: float | None, beside: Path) -> View:
    """Everything computed; evidence is named relative to the folder `beside`."""
    checks = {point.id: [check_limits(row, limits) for row in point.rows] for point in results.measured}
    per_gpu = any(row.gpus_allocated for point in results.measured for row in point.rows)
    found = places(results.measured, per_gpu=per_gpu)
    points = tuple(
        view_of(point, checks[point.id], found.get(point.id, Place()), beside, per_gpu=per_gpu)
        for point in results.measured
    )
    cost = None if results.holdings is None else campaign_cost(results.holdings)
    prefill, decode = pools_of(results.measured)
    return View(
        title=results.title,
        points=points,
        failed=tuple(_failed(point, beside) for point in results.failed),
        pruned=tuple(_pruned(point) for point in results.pruned),
        limits=tuple(_limit(limit) for limit in limits),
        workloads=tuple(dict.fromkeys(point.workload for point in points)),
        per_gpu=per_gpu,
        standings={str(standing): sum(point.standing == standing for point in points) for standing in Standing},
        gpu_hours=None if cost is None else rounded(cost.gpu_hours),
        measured_gpu_hours=None if cost is None else rounded(cost.measured_gpu_hours),
        max_loads=_max_loads(results.measured, checks) if limits else (),
        prefill=prefill,
        decode=decode,
        price=price,
    )


def _failed(point: Failed, beside: Path) -> Unmeasured:
    name = name_of(point.values) or point.id
    evidence = link_to(point.evidence, beside)
    return Unmeasured(name=name, rule="failed", reason=point.reason, spec=point.spec, evidence=evidence)


def _pruned(point: PrunedPoint) -> Unmeasured:
    return Unmeasured(name=name_of(point.values), rule=point.rule, reason=point.reason, notes=point.notes)


def _limit(limit: Limit) -> LimitView:
    return LimitView(text=str(limit), metric=limit.metric, statistic=limit.statistic, bound=limit.bound)


def _max_loads(
    measured: Sequence[Measured], checks: Mapping[str, Sequence[Sequence[Check]]]
) -> tuple[MaxLoadView, ...]:
    """Of every deployment that was measured under more than one load, for each workload and kind of load."""
    groups: dict[tuple[str, str, str], list[Measured]] = {}
    for point in measured:
        unit = load_of(point.rows[0])[0].partition(" ")[2]
        groups.setdefault((point.deployment, workload_of(point), unit), []).append(point)
    found = []
    for (deployment, workload, unit), points in groups.items():
        loads = [(load_of(point.rows[0])[1], repeat) for point in points for repeat in checks[point.id]]
        if len({load for load, _ in loads}) < LOADS_OF_A_CURVE:
            continue
        most = max_load(loads)
        found.append(
            MaxLoadView(
                deployment=deployment,
                name=name_of(points[0].values) or deployment,
                workload=workload,
                unit=unit,
                feasible_max=most.feasible_max,
                infeasible_min=most.infeasible_min,
                breach=None if most.first_breach is None else check_words(most.first_breach),
                kept_above=most.kept_above,
            )
        )
    return tuple(found)
