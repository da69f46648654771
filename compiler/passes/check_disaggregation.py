"""Prefill and decode workers come in pairs, and do not share a router with aggregated ones."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.graph import Component, EdgeKind, Graph
from dynamoc.runtime.manifest import Role


def check_disaggregation(graph: Graph, report: Reporter) -> Graph:
    """D217 prefill without decode, D218 decode without prefill, D219 aggregated beside either."""
    sends = {edge.source for edge in graph.edges if edge.kind is EdgeKind.KV}
    receives = {edge.target for edge in graph.edges if edge.kind is EdgeKind.KV}
    for component in graph.of_role(Role.PREFILL):
        if component.name not in sends:
            _report_half(graph, component, report, "D217", "sends its KV to no decode worker")
    for component in graph.of_role(Role.DECODE):
        if component.name not in receives:
            _report_half(graph, component, report, "D218", "receives KV from no prefill worker")
    halves = [*graph.of_role(Role.PREFILL), *graph.of_role(Role.DECODE)]
    for component in graph.of_role(Role.AGGREGATED):
        if halves:
            report.error(
                "D219",
                f"`{component.name}` computes whole requests beside workers that compute halves of them",
                (component.at, "aggregated"),
                (halves[0].at, f"{halves[0].role}"),
                notes=["a router either splits requests into prefill and decode, or does not"],
                at_key=True,
            )
    return graph


def _report_half(graph: Graph, component: Component, report: Reporter, code: str, fact: str) -> None:
    role = (*component.at, "role")
    report.error(code, f"`{component.name}` {fact}", (role, ""), remedies=_remedies(graph, component))


def _remedies(graph: Graph, component: Component) -> list[Remedy]:
    """Join it with its other half; where there is none, an aggregated worker needs none."""
    other = Role.DECODE if component.role is Role.PREFILL else Role.PREFILL
    if not graph.of_role(other):
        return [Remedy((Put((*component.at, "role"), str(Role.AGGREGATED)),))]
    name = graph.of_role(other)[0].name
    edge = f"{component.name} -> {name}" if other is Role.DECODE else f"{name} -> {component.name}"
    return [Remedy((Put(("edges", len(graph.edges)), edge),), f"add the edge `{edge}`")]
