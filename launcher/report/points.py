"""What a report is made of: points that were measured, points that failed, combinations that were pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dynamoc.compiler.campaign.limits import Limit
from dynamoc.launcher.analysis.cost import Holding
from dynamoc.launcher.results.row import Row
from dynamoc.launcher.results.verdict import Standing, Verdict, judge

ESTIMATE = "estimate"
"""The label of rows that nobody measured."""


class ReportError(Exception):
    """What was asked for cannot be reported; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One point with the row of each repeat, at least one. `values` are those of the axes, as text."""

    id: str
    deployment: str
    rows: tuple[Row, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    spec: str | None = None
    evidence: Path | None = None
    shared_prefix: float = 0.0
    """Share of each prompt that others have as well."""
    records: tuple[Path, ...] = ()
    """The requests of each row, where they are on record."""

    @property
    def simulated(self) -> bool:
        """Whether any of it was computed from a model of the engines, not seen on any."""
        return any(ESTIMATE in row.labels for row in self.rows)

    @property
    def verdict(self) -> Verdict:
        """Of all repeats: the worst standing, every reason once."""
        verdicts = [judge(row) for row in self.rows]
        order = list(Standing)
        reasons = dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons)
        return Verdict(max((verdict.standing for verdict in verdicts), key=order.index), tuple(reasons))


@dataclass(frozen=True, slots=True)
class Failed:
    """A point without a result, and why."""

    id: str
    reason: str
    values: Mapping[str, str] = field(default_factory=dict)
    spec: str | None = None
    evidence: Path | None = None


@dataclass(frozen=True, slots=True)
class PrunedPoint:
    """A combination that was not run: the rule that pruned it, what it found, its arithmetic."""

    rule: str
    reason: str
    notes: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that campaigns and runs left behind; `limits` are those the campaigns state."""

    title: str
    measured: tuple[Measured, ...] = ()
    failed: tuple[Failed, ...] = ()
    pruned: tuple[PrunedPoint, ...] = ()
    limits: tuple[Limit, ...] = ()
    holdings: tuple[Holding, ...] | None = None
    """What GPUs were set aside when, start-up included; None where it is not recorded."""

    @property
    def rows(self) -> Mapping[str, tuple[Row, ...]]:
        """By point."""
        return {point.id: point.rows for point in self.measured}
