"""KV pools in GPU memory: both ends of an edge have theirs there, on one node, and NVLink joins its GPUs."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect, transports_of
from dynamoc.compiler.graph import Component, Edge, EdgeKind
from dynamoc.compiler.links import kinds_without_nvlink
from dynamoc.compiler.plan import Plan


def check_gpu_pools(plan: Plan, report: Reporter) -> Plan:
    """D327 an edge between GPU and host memory, D326 GPUs that NVLink does not join."""
    for edge in plan.graph.edges:
        if edge.kind is not EdgeKind.KV:
            continue
        ends = [plan.graph.component(name) for name in (edge.source, edge.target)]
        if any(end.worker is None or dialect(end.worker.engine).capabilities.external for end in ends):
            continue
        on_gpus = [_is_on_gpu(end) for end in ends]
        if any(on_gpus) and not all(on_gpus):
            _report_mixed(ends, on_gpus.index(True), report)
        elif all(on_gpus) and plan.transports[edge.source, edge.target] == "nvlink":
            _check_joined(plan, edge, ends, report)
    return plan


def _is_on_gpu(component: Component) -> bool:
    assert component.worker is not None
    return "nvlink" in transports_of(component.worker)


def _report_mixed(ends: list[Component], on_gpu: int, report: Reporter) -> None:
    gpu, host = ends[on_gpu], ends[1 - on_gpu]
    report.error(
        "D327",
        f"`{gpu.name}` keeps its KV in GPU memory and `{host.name}` in host memory: no transport moves it between them",
        ((*gpu.at, "device"), "a GPU's"),
        ((*host.at, "device"), "the host's"),
        remedies=[Remedy((Put((*gpu.at, "device"), "cpu"),)), Remedy((Put((*host.at, "device"), "cuda"),))],
    )


def _check_joined(plan: Plan, edge: Edge, ends: list[Component], report: Reporter) -> None:
    by_node: dict[int, list[str]] = {}
    for process in plan.processes:
        if process.component in ends:
            by_node.setdefault(process.node, []).append(process.name)
    nodes, without = plan.cluster.nodes, kinds_without_nvlink(plan.cluster, by_node)
    if len(by_node) > 1:
        where = ", ".join(f"`{nodes[node].name}`: {' '.join(names)}" for node, names in sorted(by_node.items()))
        note = f"{where}; a GPU maps the memory of GPUs of its own node"
    elif without:
        note = f"GPUs of kind {without[0]} have no NVLink"
    else:
        return
    # Edges that share workers share a transport: another one may have declared it. Untold, it would be `nixl`.
    declared = next(one for one in (edge, *plan.graph.edges) if one.transport == "nvlink")
    path = (*declared.at, "transport")
    report.error(
        "D326",
        f"`{edge.source} -> {edge.target}` moves KV between GPUs that NVLink does not join",
        (path, ""),
        notes=[note],
        remedies=[Remedy((Put(path, "nixl"),))],
    )
