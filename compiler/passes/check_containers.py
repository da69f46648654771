"""Every process has one image to run in, where the site runs containers; and none names one in vain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        _check_images(plan, report)


def _check_images(plan: Plan, report: Reporter) -> None:
    """Nodes with the same mistake are one error."""
    seen: set[tuple[str, ...]] = set()
    for node in sorted({process.node for process in plan.processes}):
        name = plan.cluster.nodes[node].name
        named = named_images(plan, node)
        if tuple(named) in seen:
            continue
        seen.add(tuple(named))
        if len(named) > 1:
            _several(named, name, report)
        elif image_name(plan, node) is None:
            words = f"node `{name}` runs containers, and nothing says which image"
            helps = ["name an image for all of them in the cluster file: `site.image`"]
            report.error("D405", words, COMPONENTS, at_key=True, helps=helps)


def _several(named: Mapping[str, Sequence[Process]], node: str, report: Reporter) -> None:
    """That of a worker is meant rather than that of a frontend."""
    firsts = sorted((processes[0] for processes in named.values()), key=lambda p: not p.component.role.is_worker)
    kept, *others = firsts
    remedies = [Remedy(tuple(Put((*other.component.at, "image"), kept.component.image) for other in others))]
    words = f"processes of node `{node}` would need {len(named)} images, a node has one container"
    helps = ["workers on nodes of their own may have an image of their own: `nodes: 1`"]
    labels = [_label(process, node) for process in (*others, kept)]
    report.error("D404", words, *labels, helps=helps, remedies=remedies)


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
