"""A campaign as a folder to submit by hand: every deployment compiled with its loads, and arrays over them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec

from dynamoc.compiler.arrays import Point, arrays_of
from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.campaign.points import Deployment
from dynamoc.compiler.load_plan import FILE
from dynamoc.compiler.pipeline import emit
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.launcher.campaign.opening import Opened, models_of
from dynamoc.launcher.campaign.served import load_of
from dynamoc.launcher.campaign.state import Task

TARGET = "slurm"
NAME_CHARACTERS = 48
_UNPLAIN = re.compile(r"[^A-Za-z0-9._]+")


class FolderError(Exception):
    """A campaign that cannot be a folder; the message is for the user."""


def campaign_artifacts(opened: Opened) -> Artifacts:
    """`array-N/` for points that ask Slurm for the same, `alone-N/` for each that no array can hold; FolderError."""
    campaign = opened.campaign
    if campaign.target != TARGET:
        raise FolderError(f"the campaign is for `{campaign.target}`: write `target: {TARGET}`, or run `dynamoc sweep`")
    if campaign.searches:
        raise FolderError("a search finds its points as they are measured: `dynamoc sweep` makes it, no array can")
    deployments = {name_of(number, d): d for number, d in enumerate(campaign.deployments)}
    points = [Point(PurePosixPath("points", name), d.plan) for name, d in deployments.items()]
    made = arrays_of(campaign.name, points, campaign.at_once)
    artifacts = [artifact for array in made.arrays for artifact in (array.script, array.listing)]
    homes = {point.folder.name: array.folder / point.folder for array in made.arrays for point in array.points}
    homes |= {point.folder.name: PurePosixPath(f"alone-{number}") for number, point in enumerate(made.alone)}
    for name, deployment in deployments.items():
        artifacts += _moved(homes[name], _artifacts_of(opened, deployment))
    return tuple(artifacts)


def name_of(number: int, deployment: Deployment) -> str:
    """`03-small-mtp`: its number, words the axes gave it, and what they switched on; for want of these, numbers."""
    words, numbers = [], []
    for name, value in deployment.values.items():
        if isinstance(value, str) or value is True:
            words.append(value if isinstance(value, str) else name.rpartition(".")[2])
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers.append(f"{name.rpartition('.')[2]}-{value:g}")
    return _UNPLAIN.sub("-", "-".join((f"{number:02}", *(words or numbers))))[:NAME_CHARACTERS].rstrip("-")


def _artifacts_of(opened: Opened, deployment: Deployment) -> Artifacts:
    """Those of one job, with the loads of the campaign as its own."""
    source = read_source(deployment.spec, f"{deployment.id}.yaml")
    compiled = emit(source, deployment.plan, load_target(TARGET), models_of(opened.cluster)(source))
    tasks = [Task(point, repeat) for point in deployment.points for repeat in range(opened.campaign.repeats)]
    load = msgspec.json.format(msgspec.json.encode(load_of(tasks, deployment.gpus)), indent=2).decode() + "\n"
    kept = (artifact for artifact in compiled if str(artifact.path) != FILE)
    return (*kept, Artifact(PurePosixPath(FILE), load))


def _moved(folder: PurePosixPath, artifacts: Artifacts) -> Iterator[Artifact]:
    for artifact in artifacts:
        yield msgspec.structs.replace(artifact, path=folder / artifact.path)
