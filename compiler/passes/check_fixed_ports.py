"""Ports that `args` fix are free on their node: the plan cannot move them."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Drop, Remedy, Reporter
from dynamoc.compiler.plan import Plan, Process

FIXED = ("port", "bootstrap_port", "dp_port", "master_port")
"""Facts that are ports on which the leading process of a worker listens."""


def check_fixed_ports(plan: Plan, report: Reporter) -> Plan:
    """D319, a warning: two workers of one node that `args` give the same port, or one of the plan's."""
    taken = {(p.node, port): (p, purpose) for p in plan.processes for purpose, port in p.ports.items()}
    for process in plan.processes:
        options = process.component.worker
        if options is None or process.part:
            continue
        for fact in FIXED:
            port = options.facts.get(fact)
            if isinstance(port, int):
                other = taken.setdefault((process.node, port), (process, fact))
                if other != (process, fact):
                    _report(process, fact, port, other, report)
    return plan


def _report(process: Process, fact: str, port: int, other: tuple[Process, str], report: Reporter) -> None:
    path = process.component.where(fact)
    where, purpose = other
    report.warning(
        "D319",
        f"`{where.name}` and `{process.name}` listen on port {port} of one node",
        (path, f"the same for every worker of `{process.component.name}`"),
        notes=[f"it is the {purpose.replace('_', ' ')} of `{where.name}`"],
        remedies=[Remedy((Drop(path),))] if path[-2] == "args" else [],
    )
