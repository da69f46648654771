"""How KV moves along each edge: as its engines do it; between ours by nvlink or nixl out of GPUs, else by shm or tcp.

A worker speaks one transport, so edges that share a component share the choice.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect, transports_of
from dynamoc.compiler.graph import Edge, EdgeKind, WorkerOptions
from dynamoc.compiler.links import are_joined
from dynamoc.compiler.plan import Plan


def choose_transports(plan: Plan, report: Reporter) -> Plan:
    """D306 shared memory across nodes, D307 different transports at one worker, D525 one the engine has not."""
    transports: dict[tuple[str, str], str] = {}
    of_component: dict[str, str] = {}
    for edges in _joined([edge for edge in plan.graph.edges if edge.kind is EdgeKind.KV]):
        names = {name for edge in edges for name in (edge.source, edge.target)}
        nodes = {process.node for process in plan.processes if process.component.name in names}
        declared = _declared(edges, report)
        if declared is not None:
            _check_known(plan, declared, report)
        if declared is not None and declared.transport == "shm" and len(nodes) > 1:
            _report_apart(plan, declared, report)
        chosen = declared.transport if declared is not None else None
        transport = chosen or _usual(plan, names, nodes) or ("shm" if len(nodes) == 1 else "tcp")
        transports |= {(edge.source, edge.target): transport for edge in edges}
        of_component |= dict.fromkeys(names, transport)
    processes = tuple(replace(p, transport=of_component.get(p.component.name)) for p in plan.processes)
    return replace(plan, processes=processes, transports=dict(sorted(transports.items())))


def _joined(edges: Sequence[Edge]) -> list[list[Edge]]:
    """Edges grouped so that those which share a component are in one group."""
    groups: list[list[Edge]] = []
    for edge in edges:
        ends = {edge.source, edge.target}
        touching = [group for group in groups if any(ends & {e.source, e.target} for e in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([*(e for group in touching for e in group), edge])
    return groups


def _usual(plan: Plan, names: set[str], nodes: set[int]) -> str | None:
    """What an engine that is a program of its own was told, or does untold; our own way where pools are on GPUs."""
    for component in plan.graph.components:
        if component.name in names and component.worker is not None:
            facts = dialect(component.worker.engine).capabilities
            if facts.external:
                told = component.worker.facts.get("kv_transport")
                return str(told).lower() if told else facts.transports[0]
            if "nvlink" in transports_of(component.worker):
                return "nvlink" if are_joined(plan.cluster, nodes) else "nixl"
    return None


def _check_known(plan: Plan, edge: Edge, report: Reporter) -> None:
    for name in (edge.source, edge.target):
        component = plan.graph.component(name)
        assert component.worker is not None
        known = transports_of(component.worker)
        if edge.transport not in known:
            path = (*edge.at, "transport")
            report.error(
                "D525",
                f"engine `{component.worker.engine}` does not move KV by `{edge.transport}`{_where(component.worker)}",
                (path, f"of `{name}`"),
                notes=[f"it moves KV by {', '.join(f'`{way}`' for way in known)}"],
                remedies=[Remedy((Put(path, known[0]),))],
            )
            return


def _where(options: WorkerOptions) -> str:
    """Said where the engine's ways depend on it."""
    depends = dialect(options.engine).capabilities.gpu_transports is not None
    return f" on `{options.device}`" if depends else ""


def _declared(edges: Sequence[Edge], report: Reporter) -> Edge | None:
    """The edge that says how, if any does."""
    declaring = [edge for edge in edges if edge.transport is not None]
    for edge in declaring[1:]:
        first = declaring[0]
        if edge.transport != first.transport:
            report.error(
                "D307",
                f"`{edge.source} -> {edge.target}` and `{first.source} -> {first.target}` share workers "
                "and declare different transports",
                (edge.at, f"`{edge.transport}`"),
                (first.at, f"`{first.transport}`"),
                notes=["a worker moves KV by one transport"],
                remedies=[Remedy((Put((*edge.at, "transport"), first.transport),))],
            )
    return declaring[0] if declaring else None


def _report_apart(plan: Plan, edge: Edge, report: Reporter) -> None:
    ends = [(p.name, p.node) for p in plan.processes if p.component.name in (edge.source, edge.target)]
    nodes = sorted({node for _, node in ends})
    where = ", ".join(
        f"`{plan.cluster.nodes[node].name}`: {' '.join(name for name, at in ends if at == node)}" for node in nodes
    )
    path = (*edge.at, "transport")
    report.error(
        "D306",
        f"`{edge.source} -> {edge.target}` moves KV through shared memory, but its workers are on different nodes",
        (path, "shared memory ends at the node"),
        notes=[where],
        remedies=[Remedy((Put(path, "tcp"),))],
    )
