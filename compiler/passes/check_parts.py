"""What the flags of an engine say of a worker's part in prefill and decode agrees with its role and its edges."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Edge, EdgeKind, Graph, WorkerOptions
from dynamoc.runtime.manifest import Role

ROLES: Mapping[str, Role] = {role.value: role for role in (Role.PREFILL, Role.DECODE)}
"""What `disaggregation-mode` calls the roles; any other word of it is for whole requests."""
SIDES: Mapping[str, Role] = {"kv_producer": Role.PREFILL, "kv_consumer": Role.DECODE}
"""What `kv_role` calls the side that only sends KV, and the one that only receives it."""
SWITCHES: Mapping[str, Role] = {"prefill_worker": Role.PREFILL, "decode_worker": Role.DECODE}


def check_parts(graph: Graph, report: Reporter) -> Graph:
    """D522 a role, or a transport of an edge, that `args` contradict."""
    for component in graph.components:
        options = component.worker
        if options is not None and dialect(options.engine).capabilities.external:
            for fact, said in _said(options, component.role):
                if said is not component.role:
                    _report_role(component, fact, said, report)
    for edge in graph.edges:
        if edge.kind is EdgeKind.KV and edge.transport is not None:
            for name in (edge.source, edge.target):
                _check_transport(graph.component(name), edge, report)
    return graph


def _said(options: WorkerOptions, role: Role) -> list[tuple[str, Role]]:
    """Facts that name a role, and which. A worker of whole requests may send or receive KV for a store of blocks."""
    facts = options.facts
    told = [(fact, part) for fact, part in SWITCHES.items() if facts.get(fact) is True]
    if isinstance(facts.get("disaggregation"), str):
        told.append(("disaggregation", ROLES.get(facts["disaggregation"].lower(), Role.AGGREGATED)))
    side = SIDES.get(str(facts.get("kv_role")))
    return [*told, *([("kv_role", side)] if side is not None and role is not Role.AGGREGATED else [])]


def _report_role(component: Component, fact: str, said: Role, report: Reporter) -> None:
    path = component.where(fact)
    role: Path = (*component.at, "role")
    report.error(
        "D522",
        f"`{component.name}` has the role {component.role} in the spec and {said} in `args`",
        (path, f"{said} here"),
        (role, f"{component.role} here"),
        remedies=[Remedy((Drop(path),))],
    )


def _check_transport(component: Component, edge: Edge, report: Reporter) -> None:
    told = component.worker.facts.get("kv_transport") if component.worker is not None else None
    if not isinstance(told, str) or told.lower() in (edge.transport, "default"):
        return
    path: Path = (*edge.at, "transport")
    report.error(
        "D522",
        f"`{edge.source} -> {edge.target}` moves KV by `{edge.transport}` in the spec and by `{told}` in `args`",
        (component.where("kv_transport"), f"`{told}` in `{component.name}`"),
        (path, f"`{edge.transport}` here"),
        remedies=[Remedy((Put(path, told.lower()),))],
    )
