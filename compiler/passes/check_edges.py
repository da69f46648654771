"""Edges join roles that talk to each other.

Every allowed edge goes one step down frontend -> router -> workers -> decode -> cache, so a graph without a wrong
edge has no cycle either, and what reaches what follows from each component's own edges.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from dynamoc.compiler.diagnostics import Drop, Remedy, Reporter
from dynamoc.compiler.graph import Edge, Graph
from dynamoc.runtime.manifest import Role

TALKS_TO: Mapping[Role, tuple[Role, ...]] = {
    Role.FRONTEND: (Role.ROUTER,),
    Role.ROUTER: (Role.PREFILL, Role.DECODE, Role.AGGREGATED),
    Role.PREFILL: (Role.DECODE, Role.CACHE),
    Role.DECODE: (Role.CACHE,),
    Role.AGGREGATED: (Role.CACHE,),
    Role.CACHE: (),
}


def check_edges(graph: Graph, report: Reporter) -> Graph:
    """D213 for an edge between roles that do not talk, D214 for one that says two things. Repetitions are merged."""
    edges: dict[tuple[str, str], Edge] = {}
    for edge in graph.edges:
        earlier = edges.get((edge.source, edge.target))
        if earlier is None:
            _check_direction(graph, edge, report)
            edges[edge.source, edge.target] = edge
        else:
            edges[edge.source, edge.target] = _merge(graph, earlier, edge, report)
    return replace(graph, edges=tuple(edges.values()))


def _check_direction(graph: Graph, edge: Edge, report: Reporter) -> None:
    source, target = graph.component(edge.source).role, graph.component(edge.target).role
    allowed = TALKS_TO[source]
    if target in allowed:
        return
    message = f"`{edge.source}` ({source}) does not send anything to `{edge.target}` ({target})"
    if edge.source == edge.target:
        message = f"`{edge.source}` has an edge to itself"
    whom = " or ".join(f"`{role}`" for role in allowed)
    report.error(
        "D213",
        message,
        (edge.at, f"`{edge.source} -> {edge.target}`"),
        notes=[f"a {source} component sends to {whom}" if allowed else f"edges end at a {source} component"],
        remedies=_without(graph, edge),
    )


def _merge(graph: Graph, earlier: Edge, edge: Edge, report: Reporter) -> Edge:
    """Chains may share edges; what they declare must not differ."""
    if earlier.transport and edge.transport and earlier.transport != edge.transport:
        report.error(
            "D214",
            f"the edge `{edge.source} -> {edge.target}` has two transports",
            (edge.at, f"`{edge.transport}`"),
            (earlier.at, f"`{earlier.transport}`"),
            remedies=_without(graph, edge),
        )
    return earlier if earlier.transport else edge


def _without(graph: Graph, edge: Edge) -> list[Remedy]:
    """Removing the entry is a cure only where it holds no other edge of a chain."""
    alone = sum(other.at == edge.at for other in graph.edges) == 1
    return [Remedy((Drop(edge.at),))] if alone and edge.at else []
