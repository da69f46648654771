"""Copies of a model within one worker stay on a node where the engine cannot spread them."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Change, Drop, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, WorkerOptions
from dynamoc.compiler.plan import Plan


def check_replication(plan: Plan, report: Reporter) -> Plan:
    """D529, for data parallelism that is not that of attention."""
    nodes: dict[str, int] = {}
    for process in plan.processes:
        nodes[process.component.name] = max(nodes.get(process.component.name, 0), process.part + 1)
    for component in plan.graph.components:
        options = component.worker
        if options is None or dialect(options.engine).capabilities.copies_over_nodes:
            continue
        if options.parallel.dp > 1 and not options.parallel.dp_inside_tp and nodes[component.name] > 1:
            _report(component, options, nodes[component.name], report)
    return plan


def _report(component: Component, options: WorkerOptions, nodes: int, report: Reporter) -> None:
    path, dp = component.where("dp"), options.parallel.dp
    changes: list[Change] = [Drop(path), Put((*component.at, "replicas"), component.replicas * dp)]
    if options.gpus is not None:
        changes.append(Put((*component.at, "gpus"), options.parallel.gpus // dp))
    report.error(
        "D529",
        f"{dp} copies of the model in one worker of `{component.name}` are on {nodes} nodes",
        (path, "copies beside each other"),
        notes=[f"{options.engine} spreads only data-parallel attention over nodes", options.parallel.arithmetic],
        remedies=[Remedy(tuple(changes), f"make them workers: `replicas: {component.replicas * dp}` without `dp`")],
    )
