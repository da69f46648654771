"""Nodes of a plan that are alike: a job asks for each kind of node on its own."""

from __future__ import annotations

import msgspec

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.plan import Plan, Process


class NodeGroup(msgspec.Struct, frozen=True):
    """Nodes of one kind, and what the plan needs of each: the most that it needs of any."""

    kind: Node
    """The first of them."""
    nodes: tuple[int, ...]
    gpus: int
    cores: int


def node_groups(plan: Plan) -> tuple[NodeGroup, ...]:
    """One where all nodes are alike; else those of which most is asked come first.

    Slurm gives a job's components their nodes in order: one that suits every node must not take those of another.
    """
    kinds: dict[tuple[int, str | None, int, int], list[int]] = {}
    for index, node in enumerate(plan.cluster.nodes[: plan.nodes]):
        kinds.setdefault((node.gpus, node.gpu_kind, node.cpus, node.memory_bytes), []).append(index)
    processes: dict[int, list[Process]] = {index: [] for index in range(plan.nodes)}
    for process in plan.processes:
        processes[process.node].append(process)
    groups = [
        NodeGroup(
            kind=plan.cluster.nodes[nodes[0]],
            nodes=tuple(nodes),
            gpus=max((1 + max(p.gpus) for node in nodes for p in processes[node] if p.gpus), default=0),
            cores=max(sum(map(_cores, processes[node])) for node in nodes),
        )
        for nodes in kinds.values()
    ]
    return tuple(sorted(groups, key=lambda group: (group.gpus, group.cores), reverse=True))


def _cores(process: Process) -> int:
    """A process needs one, and each rank that a step starts."""
    mpi = process.launch is not None and process.launch.mpi
    return max(1, process.cpus, len(process.ranks) if mpi else 0)
