"""A plan does not ask more of a target than it can do."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.target import Target

COMPONENTS = (("components",), "")


def check_target(plan: Plan, target: Target, report: Reporter) -> None:
    """D401 too many nodes, D402 a container runtime it does not start, D403 nodes that differ."""
    can = target.capabilities
    if plan.nodes > can.nodes:
        words = f"the plan uses {plan.nodes} nodes, the target `{target.name}` holds {can.nodes}"
        report.error("D401", words, COMPONENTS, at_key=True)
    runtime = plan.cluster.site.get("container", "none")
    if can.containers is not None and runtime not in (*can.containers, "none"):
        words = f"cluster `{plan.cluster.name}` runs containers by {runtime}, the target `{target.name}` starts none"
        report.error(
            "D402",
            words,
            COMPONENTS,
            at_key=True,
            helps=["set `container: none` for engines that nodes have installed"],
        )
    if not can.mixed_nodes:
        _check_alike(plan, target, report)


def _check_alike(plan: Plan, target: Target, report: Reporter) -> None:
    shapes: dict[tuple[str, int, int], list[str]] = {}
    for node in plan.cluster.nodes:
        gpus = f"{node.gpus} x {node.gpu_kind}" if node.gpus else "no GPU"
        shapes.setdefault((gpus, node.cpus, node.memory_bytes), []).append(node.name)
    if len(shapes) > 1:
        notes = [f"{' '.join(names)}: {gpus}, {cpus} cores" for (gpus, cpus, _), names in shapes.items()]
        words = f"the plan uses nodes that differ, those of a job of the target `{target.name}` are alike"
        report.error("D403", words, COMPONENTS, at_key=True, notes=notes)
