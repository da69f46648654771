"""A plan does not ask more of a target than it can do."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.mpi_worlds import mpi_worlds
from dynamoc.compiler.node_groups import NodeGroup, node_groups
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.target import Target

COMPONENTS = (("components",), "")


def check_target(plan: Plan, target: Target, report: Reporter) -> None:
    """D401 too many nodes, D403 nodes it cannot tell apart, D407 MPI ranks that it cannot start."""
    can = target.capabilities
    if plan.nodes > can.nodes:
        words = f"the plan uses {plan.nodes} nodes, the target `{target.name}` holds {can.nodes}"
        report.error("D401", words, COMPONENTS, at_key=True)
    if not can.starts_mpi:
        for world in mpi_worlds(plan):
            where = f"{world.ranks} MPI ranks on {len(world.nodes)} nodes"
            words = f"`{world.name}` is {where}, which the target `{target.name}` cannot start"
            helps = ["a worker that fits one node starts its own ranks; the target `slurm` starts those of several"]
            report.error("D407", words, COMPONENTS, at_key=True, helps=helps)
    if can.picks_nodes:
        _check_groups(plan, report)


def _check_groups(plan: Plan, report: Reporter) -> None:
    """Nodes of several kinds are a job of several components, each of which says what it needs of its nodes."""
    groups = node_groups(plan)
    if len(groups) == 1:
        return
    notes = [_describe(plan, group) for group in groups]
    if plan.cluster.site.get("directives", {}).get("hetjob") is False:
        words = f"the plan uses nodes that differ, and cluster `{plan.cluster.name}` takes no heterogeneous jobs"
        report.error("D403", words, COMPONENTS, at_key=True, notes=notes)
        return
    kinds = {group.kind.gpu_kind: group for group in groups if group.gpus}
    nameless = [group for group in kinds.values() if group.kind.gres is None]
    if len(kinds) > 1 and nameless:
        words = f"nothing tells the scheduler which of the plan's nodes have {nameless[0].kind.gpu_kind}"
        helps = ["say in the cluster file what the scheduler calls these GPUs: `gres: h200` for gpu:h200:8"]
        report.error("D403", words, COMPONENTS, at_key=True, notes=notes, helps=helps)
    for world in mpi_worlds(plan):
        if not set(world.nodes) <= set(groups[world.group].nodes):
            words = f"the ranks of `{world.name}` are one step, and its nodes are of several kinds"
            report.error("D403", words, COMPONENTS, at_key=True, notes=notes)


def _describe(plan: Plan, group: NodeGroup) -> str:
    node, names = group.kind, " ".join(plan.cluster.nodes[index].name for index in group.nodes)
    gpus = f"{node.gpus} x {node.gpu_kind}" if node.gpus else "no GPU"
    return f"{names}: {gpus}, {node.cpus} cores"
