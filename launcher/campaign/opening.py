"""From a campaign's file to everything that is known before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import msgspec

from dynamoc.compiler.campaign.expand import Inputs, expand
from dynamoc.compiler.campaign.points import Campaign
from dynamoc.compiler.campaign.read import base_within, campaign_reporter, read_campaign
from dynamoc.compiler.campaign.spec import CampaignSpec
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.directives import gpus_of_the_job
from dynamoc.compiler.load_plan import gpus_working
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.source import Source
from dynamoc.compiler.target import load_target
from dynamoc.compiler.trace_facts import TraceFacts
from dynamoc.launcher.inventory import local_cluster
from dynamoc.launcher.load.trace_facts import facts_of
from dynamoc.launcher.reading import Findings, model_library, read_file

SIMULATED = "simulated"
PLANNED_FOR = "local"
"""The target whose plans are simulated: time is the same on all."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A campaign, what it was proved against, and the texts that it was read from."""

    campaign: Campaign
    cluster: Cluster
    texts: dict[str, str]


def open_campaign(path: Path, findings: Findings) -> Opened:
    """Read, expand and prove; CompileError, or a usage error for files that cannot be read."""
    source = read_file(path, findings)
    report = campaign_reporter(source)
    spec = read_campaign(source, report)
    spec = _with_places(spec, path.parent)
    source = msgspec.structs.replace(source, traces=_traces(spec))
    base = base_within(source) if isinstance(spec.base, dict) else read_file(path.parent / spec.base, findings)
    cluster = local_cluster()
    if spec.cluster is not None:
        cluster = read_cluster(read_file(path.parent / spec.cluster, findings))
    target = spec.target or PLANNED_FOR
    planned_for = PLANNED_FOR if target == SIMULATED else target
    inputs = Inputs(
        source=source,
        base=base,
        cluster=cluster,
        target=load_target(planned_for),
        gpus=gpus_of_the_job if planned_for == "slurm" else gpus_working,
        models=partial(_models, cluster),
    )
    texts = {"campaign.yaml": source.text, "base.yaml": base.text}
    campaign = expand(spec, inputs, report)
    if target == "local" and campaign.at_once > 1 and any(deployment.gpus for deployment in campaign.deployments):
        raise click.UsageError("deployments on this machine would share its GPUs: leave `budget.at_once` out")
    return Opened(campaign, cluster, texts)


def models_of(cluster: Cluster) -> Callable[[Source], ModelLibrary]:
    """What reads the facts of a spec's model, as it was read when the campaign was expanded."""
    return partial(_models, cluster)


def _models(cluster: Cluster, source: Source) -> ModelLibrary:
    return model_library(source, cluster.model_root, cluster.site.get("models", {}))


def _with_places(spec: CampaignSpec, folder: Path) -> CampaignSpec:
    """Traces are found beside the campaign."""
    loads = [
        load if load.trace is None else load.model_copy(update={"trace": str(_place(folder, load.trace))})
        for load in spec.loads
    ]
    return spec.model_copy(update={"loads": loads})


def _place(folder: Path, trace: str) -> Path:
    return (folder / Path(trace).expanduser()).resolve()


def _traces(spec: CampaignSpec) -> dict[str, TraceFacts]:
    """What is known of each, by its place; each is read once."""
    return {trace: facts_of(Path(trace)) for trace in {load.trace for load in spec.loads if load.trace is not None}}
