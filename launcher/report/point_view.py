"""One measured point as a report shows it: figures, what they cost, what is held against it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from dynamoc.compiler.campaign.limits import SPREADS, STATISTICS, Limit
from dynamoc.launcher.analysis.cost import gpu_hours_per_1k_requests, gpu_hours_per_1m_tokens
from dynamoc.launcher.analysis.intervals import mean_of
from dynamoc.launcher.analysis.sla import Check, check_limits, worst_outcome
from dynamoc.launcher.report.attained import Attained, attained
from dynamoc.launcher.report.frontiers import Place, mean_figure, throughput, workload_of
from dynamoc.launcher.report.points import Measured
from dynamoc.launcher.results.per_gpu import tokens_per_s_per_user, tokens_per_s_per_working_gpu
from dynamoc.launcher.results.row import Row, Spread

DIGITS = 5


class PointView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures are means over the repeats; times in ms, costs in GPU-hours of allocated GPUs."""

    id: str
    name: str
    deployment: str
    workload: str
    load: str
    load_value: float
    standing: str
    reasons: tuple[str, ...] = ()
    simulated: bool = False
    repeats: int = 1
    gpus: int | None = None
    gpus_working: int | None = None
    requests: int
    completed: int
    figures: dict[str, float]
    """By name; a time has its statistic in it: `ttft_ms@p95`. What is not known, or not finite, is left out."""
    with_failures: dict[str, float]
    """The most that TTFT and TPOT can be at p95 when requests that failed took for ever; left out where they did."""
    sla: str | None = None
    sla_checks: tuple[str, ...] = ()
    attained: dict[str, float] = {}
    """By limit, the share of the requests that kept it, each for itself."""
    front: bool = False
    front_ttft: bool = False
    behind: str | None = None
    by: str | None = None
    intervals: dict[str, float] = {}
    """Half widths of 95 % intervals, of three repeats or more."""
    values: dict[str, str] = {}
    spec: str | None = None
    evidence: str | None = None


def view_of(
    point: Measured, checks: Sequence[Sequence[Check]], place: Place, beside: Path, *, per_gpu: bool
) -> PointView:
    """A point with what was found of it: the checks of each repeat, and its place."""
    row = point.rows[0]
    verdict = point.verdict
    kept = attained(point, [check.limit for check in (checks[0] if checks else ())])
    load, load_value = load_of(row)
    flat = [check for repeat in checks for check in repeat]
    return PointView(
        id=point.id,
        name=name_of(point.values) or point.id,
        deployment=point.deployment,
        workload=workload_of(point),
        load=load,
        load_value=load_value,
        standing=verdict.standing,
        reasons=tuple(f"{reason.rule}: {reason.text}" for reason in verdict.reasons),
        simulated=point.simulated,
        repeats=len(point.rows),
        gpus=row.gpus_allocated,
        gpus_working=row.gpus_working,
        requests=sum(each.requests for each in point.rows),
        completed=sum(each.completed for each in point.rows),
        figures=_figures(point, kept, per_gpu=per_gpu),
        with_failures=_with_failures(point),
        sla=worst_outcome(flat) if flat else None,
        sla_checks=tuple(dict.fromkeys(check_words(check) for check in flat)),
        attained={} if kept is None else {name: round(share, 4) for name, share in kept.shares.items()},
        front=place.front,
        front_ttft=place.front_ttft,
        behind=place.behind,
        by=place.by,
        intervals=_intervals(point, per_gpu=per_gpu),
        values=dict(point.values),
        spec=point.spec,
        evidence=link_to(point.evidence, beside),
    )


def name_of(values: Mapping[str, str]) -> str:
    """`decode.replicas 2, block_size 16`: of each field only as much as tells it from the others."""
    return ", ".join(f"{_shortest(name, values)} {value}" for name, value in values.items())


def _shortest(name: str, among: Iterable[str]) -> str:
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if sum(other == end or other.endswith(f".{end}") for other in among) == 1:
            return end
    return name


def load_of(row: Row) -> tuple[str, float]:
    """In words, and as the number that curves are drawn over."""
    if row.concurrency is not None:
        return f"{row.concurrency} in flight", float(row.concurrency)
    if row.request_rate is not None:
        return f"{row.request_rate:g} requests/s", row.request_rate
    return "all at once", float(row.requests)


def link_to(path: Path | None, beside: Path) -> str | None:
    """A relative address that no page takes for a script."""
    return None if path is None else "./" + quote(os.path.relpath(path, beside))


def rounded(value: float | None) -> float | None:
    """Five digits; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def check_words(check: Check) -> str:
    """A limit, whether it was kept, and what was seen."""
    if check.low == check.high:
        seen = f"{check.low:.4g}"
    elif math.isinf(check.high):
        seen = f"at least {check.low:.4g}" if check.low else "not known"
    else:
        seen = f"{check.low:.4g} to {check.high:.4g}"
    return f"{check.limit}: {check.outcome}, {'never: requests failed' if math.isinf(check.low) else seen}"


def _figures(point: Measured, kept: Attained | None, *, per_gpu: bool) -> dict[str, float]:
    rates: dict[str, Callable[[Row], float | None]] = {
        "requests_per_s": lambda row: row.requests_per_s,
        "output_tokens_per_s": lambda row: row.output_tokens_per_s,
        "user": tokens_per_s_per_user,
        "throughput": lambda row: throughput(row, per_gpu=per_gpu),
        "per_working_gpu": tokens_per_s_per_working_gpu,
        "goodput_per_s": lambda row: row.goodput_per_s,
    }
    times = {f"{metric}@{name}": _statistic(metric, name) for metric in SPREADS for name in STATISTICS}
    found = {name: mean_figure(point, of) for name, of in {**rates, **times}.items()} | _costs(point, kept)
    found["kept_per_s"] = None if kept is None else kept.good_per_s
    return {name: value for name, figure in found.items() if (value := rounded(figure)) is not None}


def _costs(point: Measured, kept: Attained | None) -> dict[str, float | None]:
    """GPU-hours; nothing where no GPU was set aside."""
    gpus = point.rows[0].gpus_allocated
    if not gpus:
        return {}
    good = mean_figure(point, lambda row: row.goodput_per_s)
    requests = mean_figure(point, lambda row: row.requests_per_s) or 0.0
    tokens = mean_figure(point, lambda row: row.output_tokens_per_s) or 0.0
    return {
        "gpu_hours_per_1k": gpu_hours_per_1k_requests(gpus, requests),
        "gpu_hours_per_1m": gpu_hours_per_1m_tokens(gpus, tokens),
        "gpu_hours_per_1k_kept": None if kept is None else gpu_hours_per_1k_requests(gpus, kept.good_per_s),
        "gpu_hours_per_1k_good": None if good is None else gpu_hours_per_1k_requests(gpus, good),
    }


def _with_failures(point: Measured) -> dict[str, float]:
    found = {}
    for metric in ("ttft_ms", "tpot_ms"):
        repeats = (check_limits(row, (Limit(metric, "p95", "<=", math.inf),))[0] for row in point.rows)
        worst = rounded(max(check.high for check in repeats))
        if worst is not None:
            found[f"{metric}@p95"] = worst
    return found


def _statistic(metric: str, name: str) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        spread: Spread | None = getattr(row, metric)
        value: float | None = None if spread is None else getattr(spread, name)
        return value

    return of


def _intervals(point: Measured, *, per_gpu: bool) -> dict[str, float]:
    figures = {
        "user": [tokens_per_s_per_user(row) for row in point.rows],
        "throughput": [throughput(row, per_gpu=per_gpu) for row in point.rows],
    }
    found = {}
    for name, values in figures.items():
        known = [value for value in values if value is not None]
        half_width = mean_of(known).half_width if known else None
        if half_width is not None and len(known) == len(values):
            found[name] = float(f"{half_width:.3g}")
    return found
