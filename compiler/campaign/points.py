"""What a campaign expands to: deployments, the points that each is put under, and what was pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dynamoc.compiler.campaign.limits import Limit
from dynamoc.compiler.diagnostics import Diagnostic
from dynamoc.compiler.load_plan import LoadPoint
from dynamoc.compiler.plan import Plan


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load of one deployment. `id` names its content and no name; a point of equal content is the same point."""

    id: str
    deployment: str
    load: LoadPoint
    tool: str


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """The largest concurrency from `low` to `high` under the SLA; `point` is that of `high`."""

    low: int
    high: int
    point: Point


class Ladder(msgspec.Struct, frozen=True, kw_only=True):
    """Loads of one deployment from light to heavy, or a search among them."""

    points: tuple[Point, ...] = ()
    search: Search | None = None


class Deployment(msgspec.Struct, frozen=True):
    """A pipeline as it is started: its spec without a load, and everything it is put under."""

    id: str
    values: Mapping[str, Any]
    spec: str
    plan: Plan
    gpus: int
    ladders: tuple[Ladder, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """Those known before anything runs."""
        return tuple(point for ladder in self.ladders for point in ladder.points)


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """A combination that is not run: the rule (`where`, or a code), what it found, and its arithmetic."""

    values: dict[str, Any]
    rule: str
    message: str
    notes: tuple[str, ...] = ()
    load: dict[str, Any] = {}


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known before anything runs.

    `combinations` counts those of the axes, `same` the points that were there already.
    """

    name: str
    target: str
    deployments: tuple[Deployment, ...]
    pruned: tuple[Pruned, ...]
    combinations: int
    same: int
    repeats: int
    sla: tuple[Limit, ...]
    stops: bool
    """Whether a ladder ends at the first breach."""
    gpu_hours: float | None
    wall_time_s: float | None
    retries: int
    at_once: int
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def points(self) -> tuple[Point, ...]:
        """Every point known before anything runs."""
        return tuple(point for deployment in self.deployments for point in deployment.points)

    @property
    def searches(self) -> int:
        """Ladders whose points are found as they are measured."""
        return sum(ladder.search is not None for d in self.deployments for ladder in d.ladders)
