"""The run ends before the partition ends it."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.plan import Plan


def check_time(plan: Plan, report: Reporter) -> Plan:
    """D317 a time limit above the partition's, D318 more nodes than it gives to one job."""
    name = plan.cluster.site.get("partition")
    partition = plan.cluster.partition(name) if isinstance(name, str) else None
    if partition is None:
        return plan
    limit, wanted = partition.max_time_s, plan.graph.time_limit_s
    if limit is not None and wanted is not None and wanted > limit:
        report.error(
            "D317",
            f"the run may take {spell_time(wanted)}, partition `{name}` gives {spell_time(limit)}",
            (("time_limit",), ""),
            notes=[f"{wanted:.0f} s > {limit:.0f} s"],
            remedies=[Remedy((Put(("time_limit",), spell_time(limit)),))],
        )
    if partition.max_nodes is not None and plan.nodes > partition.max_nodes:
        report.error(
            "D318",
            f"the plan takes {plan.nodes} nodes, partition `{name}` gives at most {partition.max_nodes} to one job",
            (("components",), ""),
            at_key=True,
        )
    return plan


def spell_time(seconds: float) -> str:
    """`4:00:00`."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
