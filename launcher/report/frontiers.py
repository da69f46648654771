"""Where each point stands: on the frontier of its workload, or behind which other point and by how much."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dynamoc.launcher.analysis.pareto import frontier
from dynamoc.launcher.report.points import Measured
from dynamoc.launcher.results.per_gpu import tokens_per_s_per_gpu, tokens_per_s_per_user
from dynamoc.launcher.results.row import Row
from dynamoc.launcher.results.verdict import Standing

ROLE = "role"
"""The label of rows that measured one pool alone."""


@dataclass(frozen=True, slots=True)
class Place:
    """`front` among tokens/s/user and throughput, `front_ttft` when TTFT counts as well; a point in front of it."""

    front: bool = False
    front_ttft: bool = False
    behind: str | None = None
    by: str | None = None


def mean_figure(point: Measured, of: Callable[[Row], float | None]) -> float | None:
    """Over the repeats; None if any of them has none."""
    values = [of(row) for row in point.rows]
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def throughput(row: Row, *, per_gpu: bool) -> float | None:
    """Output tokens/s per allocated GPU, or of the deployment."""
    return tokens_per_s_per_gpu(row) if per_gpu else row.output_tokens_per_s


def workload_of(point: Measured) -> str:
    """What must be equal for figures to be compared: model, lengths, what prompts share, whether it was measured."""
    row = point.rows[0]
    isl, osl = row.isl_asked or round(row.isl), row.osl_asked or round(row.osl)
    shared = f", {point.shared_prefix:.0%} shared" if point.shared_prefix else ""
    alone = f", {row.labels[ROLE]} alone" if ROLE in row.labels else ""
    return (
        f"{row.model or 'a model'}, {isl} in, {osl} out" + alone + shared + (", simulated" if point.simulated else "")
    )


def places(points: Sequence[Measured], *, per_gpu: bool) -> Mapping[str, Place]:
    """By point; only valid ones stand anywhere."""
    workloads: dict[str, list[Measured]] = {}
    for point in points:
        if point.verdict.standing is Standing.VALID:
            workloads.setdefault(workload_of(point), []).append(point)
    return {name: place for group in workloads.values() for name, place in _placed(group, per_gpu=per_gpu).items()}


def _placed(group: Sequence[Measured], *, per_gpu: bool) -> dict[str, Place]:
    values = [_values(point, per_gpu=per_gpu) for point in group]
    front = frontier([pair for *pair, _ in values])
    wide = set(frontier(values).members)
    found = {}
    for index, point in enumerate(group):
        above = front.dominators.get(index)
        behind = None if above is None else group[above].id
        by = None if above is None else _by(values[index], values[above], per_gpu=per_gpu)
        found[point.id] = Place(index in front.members, index in wide, behind, by)
    return found


def _values(point: Measured, *, per_gpu: bool) -> tuple[float, float, float]:
    """Each the better the larger; not a number where it is not known."""
    user = mean_figure(point, tokens_per_s_per_user)
    rate = mean_figure(point, lambda row: throughput(row, per_gpu=per_gpu))
    ttft = mean_figure(point, lambda row: None if row.ttft_ms is None else row.ttft_ms.avg)
    return tuple(math.nan if value is None else value for value in (user, rate, None if ttft is None else -ttft))  # type: ignore[return-value]


def _by(point: tuple[float, float, float], above: tuple[float, float, float], *, per_gpu: bool) -> str:
    """What the other one has more of: `12 % more tokens/s/user, as many tokens/s/GPU`."""
    names = ("tokens/s/user", "tokens/s/GPU" if per_gpu else "tokens/s")
    pairs = zip(point, above, names, strict=False)
    return ", ".join(
        f"as many {name}" if mine == theirs else f"{_share(mine, theirs)} more {name}" for mine, theirs, name in pairs
    )


def _share(mine: float, theirs: float) -> str:
    return f"{theirs / mine - 1:.1%}".replace("%", " %") if mine > 0 else f"{theirs:g}"
