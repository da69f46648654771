"""The largest load of a deployment that keeps the SLA, from loads that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynamoc.launcher.analysis.sla import Check, Outcome, worst_outcome


@dataclass(frozen=True, slots=True)
class MaxLoad:
    """Up to `feasible_max` every measured load kept the SLA; `infeasible_min` did not, or it is not certain.

    Between the two nothing was measured. `kept_above` are larger loads that kept it again: the SLA is not monotone.
    """

    feasible_max: float | None
    infeasible_min: float | None
    first_breach: Check | None
    kept_above: tuple[float, ...] = ()


def max_load(measured: Iterable[tuple[float, Sequence[Check]]]) -> MaxLoad:
    """Of loads (requests in flight or per second) with their checks; a load measured twice must keep it twice."""
    by_load: dict[float, list[Check]] = {}
    for load, checks in measured:
        by_load.setdefault(load, []).extend(checks)
    feasible: float | None = None
    for load in sorted(by_load):
        if worst_outcome(by_load[load]) is not Outcome.MET:
            breach = next(check for check in by_load[load] if check.outcome is not Outcome.MET)
            above = (again for again in sorted(by_load) if again > load)
            kept = tuple(again for again in above if worst_outcome(by_load[again]) is Outcome.MET)
            return MaxLoad(feasible, load, breach, kept)
        feasible = load
    return MaxLoad(feasible, None, None)
