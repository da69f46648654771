"""The pools of a campaign's deployments: how many workers of each role, and how many GPUs each has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.source import read_source
from dynamoc.launcher.campaign.opening import models_of
from dynamoc.launcher.campaign.store import Store
from dynamoc.launcher.report.campaign import is_campaign
from dynamoc.runtime.manifest import Role


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Workers of one role; GPUs of each, 0 where it computes on a CPU."""

    workers: int
    gpus_each: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A deployment of prefill and decode workers."""

    prefill: PoolSize
    decode: PoolSize

    def __str__(self) -> str:
        return f"{self.prefill.workers}P{self.decode.workers}D"


@dataclass(frozen=True, slots=True)
class Pairs:
    """By deployment; `unread` are those of another version, which do not compile any more."""

    known: Mapping[str, Pair]
    unread: tuple[str, ...] = ()


def pairs_in(paths: Sequence[Path]) -> Pairs:
    """Of those campaigns among the paths; CampaignError."""
    found = [one for path in paths if is_campaign(path) for one in _pairs_of(Store(path))]
    known = {name: pair for name, pair in found if isinstance(pair, Pair)}
    return Pairs(known, tuple(name for name, pair in found if isinstance(pair, CompileError)))


def _pairs_of(store: Store) -> Iterator[tuple[str, Pair | CompileError]]:
    cluster = store.inventory()
    models = models_of(cluster)
    for deployment in store.deployments():
        source = read_source(deployment.spec, f"{deployment.id}.yaml")
        try:
            plan, _ = build_plan(source, cluster, models(source))
        except CompileError as error:
            yield deployment.id, error
            continue
        prefill, decode = _pool(plan, Role.PREFILL), _pool(plan, Role.DECODE)
        if prefill is not None and decode is not None:
            yield deployment.id, Pair(prefill, decode)


def _pool(plan: Plan, role: Role) -> PoolSize | None:
    """None where there is none, or its workers are of different sizes."""
    components = plan.graph.of_role(role)
    workers = sum(component.replicas for component in components)
    sizes = {sum(len(p.gpus) for p in plan.processes if p.component.name == c.name) // c.replicas for c in components}
    return PoolSize(workers, sizes.pop()) if len(sizes) == 1 else None
