"""Independent points of a campaign as Slurm job arrays: one submission, each task runs the job of its point.

An array is a folder to submit, as that of a single job is: `emitted/job.sbatch`, and the folders of its points.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import msgspec

from dynamoc.compiler.array_plan import FILE, ArrayPlan
from dynamoc.compiler.artifacts import Artifact
from dynamoc.compiler.directives import Directive, components, spelled
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.rendering import render

EXECUTABLE = 0o755
OF_A_POINT = frozenset({"job-name", "output", "time"})
"""Options that may differ between the points of an array: the array has a name, a log and the longest time."""


class Point(msgspec.Struct, frozen=True):
    """A compiled point; `folder` holds its artifacts, relative to that of its array."""

    folder: PurePosixPath
    plan: Plan


class Array(msgspec.Struct, frozen=True):
    """One array job; task k is point k. `folder` is what is submitted."""

    folder: PurePosixPath
    script: Artifact
    listing: Artifact
    points: tuple[Point, ...]


class Arrays(msgspec.Struct, frozen=True):
    """The jobs of a campaign. Points that no array can hold are submitted by their own scripts."""

    arrays: tuple[Array, ...]
    alone: tuple[Point, ...]


def arrays_of(name: str, points: Sequence[Point], at_once: int) -> Arrays:
    """Points that ask Slurm for the same are one array, of which at most `at_once` run at a time.

    Slurm takes no array of heterogeneous jobs: their points are alone.
    """
    alike: dict[tuple[Directive, ...], list[Point]] = {}
    alone = []
    for point in points:
        first, *further = components(point.plan)
        if further:
            alone.append(point)
        else:
            alike.setdefault(tuple(d for d in first if d.option not in OF_A_POINT), []).append(point)
    made = (_array(number, name, group, at_once) for number, group in enumerate(alike.values()))
    return Arrays(tuple(made), tuple(alone))


def _array(number: int, name: str, points: Sequence[Point], at_once: int) -> Array:
    folder = PurePosixPath(f"array-{number}")
    plan = ArrayPlan(name=f"{name}-{number}", points=tuple(str(point.folder) for point in points))
    listing = msgspec.json.format(msgspec.json.encode(plan), indent=2).decode() + "\n"
    script = _script(folder / "emitted/job.sbatch", name, points, at_once)
    return Array(folder, script, Artifact(folder / FILE, listing), tuple(points))


def _script(path: PurePosixPath, name: str, points: Sequence[Point], at_once: int) -> Artifact:
    asked = [d for point in points for d in components(point.plan)[0] if d.option == "time"]
    longest = max(points, key=lambda point: point.plan.graph.time_limit_s or 0)
    own = {
        "job-name": Directive("job-name", f"dynamoc-{name}", "campaign: name"),
        "output": Directive("output", "slurm-%A_%a.log", "in the folder that is submitted from"),
    }
    said = [own.get(d.option, d) for d in components(longest.plan)[0]]
    if len(asked) < len(points):  # one without a limit is not cut off by that of another
        said = [d for d in said if d.option != "time"]
    tasks = Directive("array", f"0-{len(points) - 1}%{at_once}", "campaign: points, and how many at once")
    values = {
        "directives": spelled([said[0], tasks, *said[1:]]),
        "folders": [str(point.folder) for point in points],
    }
    return Artifact(path, render("slurm/array.sbatch.j2", **values), EXECUTABLE)
