"""The run, and the patience of its agents, outlast the reading of the weights."""

from __future__ import annotations

import math

from dynamoc.compiler.diagnostics import Drop, Put, Remedy, Reporter
from dynamoc.compiler.load import Load
from dynamoc.compiler.passes.check_time import spell_time
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.start import Reading, readings

ROUND_S = 600


def check_start(plan: Plan, report: Reporter) -> Plan:
    """D348 a time limit, D349 a deadline within which weights cannot be read; only where storage speeds are known."""
    found = readings(plan)
    slowest = max(found, key=lambda reading: reading.seconds, default=None)
    if slowest is not None and slowest.seconds:
        _check_limit(plan, slowest, report)
        _check_deadlines(plan, found, report)
    return plan


def _check_limit(plan: Plan, slowest: Reading, report: Reporter) -> None:
    """An error where not even the weights are read in time, a warning where the load does not end in time."""
    limit, load_s = plan.graph.time_limit_s, _seconds(plan.graph.load)
    needed = slowest.seconds + load_s
    if limit is None or limit > needed:
        return
    late = limit <= slowest.seconds
    least = slowest.seconds if late else needed
    rest = "" if late else f", and {load_s:,.0f} s of requests"
    ample = math.ceil((2 * slowest.seconds + load_s) / ROUND_S + 1) * ROUND_S
    (report.error if late else report.warning)(
        "D348",
        f"the run may take {spell_time(limit)}, reading the weights takes {spell_time(slowest.seconds)} or more{rest}",
        (("time_limit",), ""),
        notes=[
            f"node `{slowest.node.name}`: {slowest.arithmetic}",
            f"{limit:,.0f} s <= {least:,.0f} s",
        ],
        remedies=[Remedy((Put(("time_limit",), spell_time(ample)),))],
    )


def _seconds(load: Load | None) -> float:
    """What the requests take that are sent at times of their own; 0 where these follow from the answers."""
    if load is not None and load.trace is not None and load.trace.facts is not None and load.requests is None:
        return load.trace.facts.lasts_s / load.trace.speed
    if load is None or load.requests is None or load.request_rate in (None, math.inf):
        return 0.0
    return load.requests / float(load.request_rate or math.inf)


def _check_deadlines(plan: Plan, found: list[Reading], report: Reporter) -> None:
    by_node = {reading.node.name: reading for reading in found}
    for component in {p.component.name: p.component for p in plan.processes}.values():
        nodes = {plan.cluster.nodes[p.node].name for p in plan.processes if p.component is component}
        own = [by_node[name] for name in sorted(nodes) if name in by_node]
        slowest = max(own, key=lambda reading: reading.seconds, default=None)
        limit = component.ready_timeout_s
        if component.worker is None or limit is None or slowest is None or limit > slowest.seconds:
            continue
        path = (*component.at, "ready_timeout")
        report.error(
            "D349",
            f"`{component.name}` may take {limit:g} s to start, reading its weights takes {slowest.seconds:,.0f} s",
            (path, "killed before it is ready"),
            notes=[f"node `{slowest.node.name}`: {slowest.arithmetic}"],
            remedies=[Remedy((Drop(path),))],
        )
