"""CPU workers share the cores of their node, and what was asked for is there."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.units import spell_count


def assign_cpus(plan: Plan, report: Reporter) -> Plan:
    """D304: a node has fewer cores than its workers ask for. Those that ask for none share evenly."""
    share = {}
    for index, node in enumerate(plan.cluster.nodes):
        here = [p for p in plan.processes if p.node == index and p.component.worker is not None]
        asked = sum(p.cpus for p in here)
        if asked > node.cpus:
            _report_overflow(node, [p for p in here if p.cpus], asked, report)
        on_cpu = [p for p in here if not p.gpus]
        share[index] = max(1, node.cpus // max(1, len(on_cpu)))
    return replace(plan, processes=tuple(_with_cpus(process, share[process.node]) for process in plan.processes))


def _with_cpus(process: Process, share: int) -> Process:
    asks = process.component.worker is None or process.cpus or process.gpus
    return process if asks else replace(process, cpus=share)


def _report_overflow(node: Node, processes: Sequence[Process], asked: int, report: Reporter) -> None:
    components = {p.component.name: p.component for p in processes}
    terms = [(name, sum(p.component.name == name for p in processes)) for name in components]
    cpus = {p.component.name: p.cpus for p in processes}
    count = dict(terms)
    largest = max(components, key=lambda name: cpus[name] * count[name])
    fitting = (node.cpus - asked) // count[largest] + cpus[largest]
    path = (*components[largest].at, "cpus")
    report.error(
        "D304",
        f"the workers on node `{node.name}` ask for {asked} CPU cores, it has {node.cpus}",
        (path, f"{spell_count(cpus[largest], 'core')} each"),
        notes=[" + ".join(f"`{name}` {n} x {cpus[name]}" for name, n in terms) + f" = {asked}"],
        remedies=[Remedy((Put(path, fitting),))] if fitting > 0 else [],
    )
