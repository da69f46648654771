"""Which load points of a run have no result yet."""

from __future__ import annotations

from pathlib import Path

from dynamoc.launcher.load.point import LoadPlan, LoadPoint

RESULTS = "results"


def result_file(folder: Path, point: LoadPoint) -> Path:
    """Where the row of a point is, or will be."""
    return folder / RESULTS / f"{point.id}.json"


def remaining(folder: Path, plan: LoadPlan) -> tuple[LoadPoint, ...]:
    """Points without a result: a run that was cut short goes on with them."""
    return tuple(point for point in plan.points if not result_file(folder, point).is_file())
