"""Each process gets as long to start as its start may take."""

from __future__ import annotations

from msgspec.structs import replace

from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.start import reading_nodes, ready_timeout_s


def set_deadlines(plan: Plan, report: Reporter) -> Plan:
    """The agent kills what is not ready by then, and starts it again."""
    del report
    nodes = reading_nodes(plan)
    processes = tuple(replace(p, ready_timeout_s=ready_timeout_s(plan, p, nodes)) for p in plan.processes)
    return replace(plan, processes=processes)
