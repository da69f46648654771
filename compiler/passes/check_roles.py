"""A pipeline has frontends, one router, and workers that requests reach."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Drop, Put, Remedy, Reporter
from dynamoc.compiler.graph import Component, Graph
from dynamoc.runtime.manifest import Role


def check_roles(graph: Graph, report: Reporter) -> Graph:
    """D210 no frontend, D211 no router, D212 several routers; with both of them also what they reach."""
    for code, role in (("D210", Role.FRONTEND), ("D211", Role.ROUTER)):
        if not graph.of_role(role):
            message = f"no component has the role `{role}`"
            report.error(code, message, (("components",), ""), at_key=True, remedies=_addition(graph, role))
    routers = graph.of_role(Role.ROUTER)
    _check_single_router(routers, report)
    if graph.of_role(Role.FRONTEND) and routers:
        _check_connected(graph, report)
    return graph


def _check_single_router(routers: tuple[Component, ...], report: Reporter) -> None:
    for router in routers[1:]:
        report.error(
            "D212",
            f"`{router.name}` is a second router",
            (router.at, "workers register with one router"),
            (routers[0].at, "the first one"),
            at_key=True,
        )
    for router in routers:
        if router.replicas > 1:
            path = (*router.at, "replicas")
            report.error(
                "D212",
                f"`{router.name}` has {router.replicas} replicas",
                (path, "workers register with one router"),
                remedies=[Remedy((Put(path, 1),))],
            )


def _check_connected(graph: Graph, report: Reporter) -> None:
    """D215 a worker that no request reaches, D216 a frontend or router that leads to nothing."""
    sources, targets = {e.source for e in graph.edges}, {e.target for e in graph.edges}
    router = graph.of_role(Role.ROUTER)[0]
    for component in graph.components:
        if component.role in (Role.PREFILL, Role.AGGREGATED) and component.name not in targets:
            report.error(
                "D215",
                f"no request reaches `{component.name}`",
                (component.at, "no edge leads here"),
                at_key=True,
                remedies=[_add_edge(graph, router, component), *_removal(graph, component)],
            )
        elif component.role is Role.FRONTEND and component.name not in sources:
            report.error(
                "D216",
                f"`{component.name}` leads to no router",
                (component.at, "no edge starts here"),
                at_key=True,
                remedies=[_add_edge(graph, component, router)],
            )
        elif component.role is Role.ROUTER and component.name not in sources:
            report.error(
                "D216", f"`{component.name}` leads to no worker", (component.at, "no edge starts here"), at_key=True
            )


def _addition(graph: Graph, role: Role) -> list[Remedy]:
    """Add the component and a chain through it, where there is one way to do so."""
    firsts = [c.name for c in graph.components if c.role in (Role.PREFILL, Role.AGGREGATED)]
    before = [component.name for component in graph.of_role(Role.FRONTEND)]
    after = [component.name for component in graph.of_role(Role.ROUTER)] if role is Role.FRONTEND else firsts
    if role is Role.ROUTER and any(edge.source in before for edge in graph.edges):
        return []
    if str(role) in {component.name for component in graph.components} or len(before) > 1 or len(after) != 1:
        return []
    chain = " -> ".join([*before, str(role), *after])
    changes = (Put(("components", str(role)), {"role": str(role)}), Put(("edges", len(graph.edges)), chain))
    return [Remedy(changes, f"add `{role}: {{role: {role}}}` and the edge `{chain}`")]


def _add_edge(graph: Graph, source: Component, target: Component) -> Remedy:
    edge = f"{source.name} -> {target.name}"
    return Remedy((Put(("edges", len(graph.edges)), edge),), f"add the edge `{edge}`")


def _removal(graph: Graph, component: Component) -> list[Remedy]:
    """A component without edges can go, unless it is named elsewhere."""
    named = any(component.name == edge.source for edge in graph.edges)
    pinned = any(component.name in group for group in graph.same_node)
    return [] if named or pinned or not component.at else [Remedy((Drop(component.at),))]
