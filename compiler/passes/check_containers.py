"""Every process has one image to run in, where the site runs containers; and none names one in vain."""

from __future__ import annotations

from dynamoc.compiler.containers import image_name, named_images, runtime_of
from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.graph import Component
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.target import Target

COMPONENTS: tuple[Path, str] = (("components",), "")


def check_containers(plan: Plan, target: Target, report: Reporter) -> None:
    """D402 a runtime the target does not start, D404 two images on a node, D405 none, D406 one in vain."""
    can = target.capabilities.containers
    runtime = runtime_of(plan.cluster.site)
    if runtime == "none" or can is None:
        _check_vain(plan, target, report)
    elif runtime not in can:
        words = f"cluster `{plan.cluster.name}` runs containers by {runtime}, the target `{target.name}` by "
        helps = ["set `container: none` for engines that nodes have installed"]
        report.error("D402", words + " or ".join(can), COMPONENTS, at_key=True, helps=helps)
    else:
        for node in range(plan.nodes):
            _check_node(plan, node, report)


def _check_node(plan: Plan, node: int, report: Reporter) -> None:
    name = plan.cluster.nodes[node].name
    named = named_images(plan, node)
    if len(named) > 1:
        (one, first), (_, second), *_ = sorted(named.items())
        labels = [_label(processes[0], name) for processes in (second, first)]
        remedies = [Remedy((Put((*second[0].component.at, "image"), one),))]
        words = f"processes of node `{name}` would need {len(named)} images, a node has one container"
        helps = ["or give each of the components nodes of its own: `nodes: 1`"]
        report.error("D404", words, *labels, helps=helps, remedies=remedies)
    elif any(p.node == node for p in plan.processes) and image_name(plan, node) is None:
        words = f"node `{name}` runs containers, and nothing says which image"
        helps = ["name an image for all of them in the cluster file: `site.image`"]
        report.error("D405", words, COMPONENTS, at_key=True, helps=helps)


def _label(process: Process, node: str) -> tuple[Path, str]:
    return ((*process.component.at, "image"), f"`{process.name}` on node `{node}` runs in this")


def _check_vain(plan: Plan, target: Target, report: Reporter) -> None:
    """A recipe keeps its image where it is not used, so this is no error."""
    found: dict[str | None, list[Component]] = {}
    for component in plan.graph.components:
        found.setdefault(component.image, []).append(component)
    for image, components in found.items():
        if image is not None:
            names = ", ".join(f"`{component.name}`" for component in components)
            words = f"the image of {names} is not used: the target `{target.name}` starts what the nodes have installed"
            report.warning("D406", words, ((*components[0].at, "image"), f"cluster `{plan.cluster.name}`"))
