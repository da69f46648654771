"""Workers whose processes are ranks of one MPI world: a step over all their nodes starts them."""

from __future__ import annotations

import msgspec

from dynamoc.compiler.directives import gres_of
from dynamoc.compiler.node_groups import node_groups
from dynamoc.compiler.plan import Plan, Process


class MpiWorld(msgspec.Struct, frozen=True):
    """One worker, by the name of its leading process."""

    name: str
    nodes: tuple[int, ...]
    ranks: int
    ranks_of_a_node: int
    group: int
    """Which kind of node it is on."""
    gres: str


def mpi_worlds(plan: Plan) -> tuple[MpiWorld, ...]:
    """Those of a plan, in its order."""
    workers: dict[tuple[str, int], list[Process]] = {}
    for process in plan.processes:
        if process.launch is not None and process.launch.mpi:
            workers.setdefault((process.component.name, process.replica), []).append(process)
    return tuple(_world(plan, parts) for parts in workers.values())


def _world(plan: Plan, parts: list[Process]) -> MpiWorld:
    groups = node_groups(plan)
    which = next(number for number, group in enumerate(groups) if parts[0].node in group.nodes)
    return MpiWorld(
        name=parts[0].name,
        nodes=tuple(part.node for part in parts),
        ranks=sum(len(part.ranks) for part in parts),
        ranks_of_a_node=max(len(part.ranks) for part in parts),
        group=which,
        gres=gres_of(groups[which]),
    )
