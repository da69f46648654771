"""Workers over several nodes against what NVLink joins."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.graph import Component
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.units import spell_count

VARIABLES = ("MC_FORCE_MNNVL", "NCCL_MNNVL_ENABLE")
"""Ask for NVLink between nodes; `0` asks for none."""


def check_nvlink(plan: Plan, report: Reporter) -> Plan:
    """Warnings: D315 a worker over more nodes than one NVLink domain has, D316 NVLink between nodes without any."""
    for component in plan.graph.components:
        nodes = {p.node for p in plan.processes if p.component is component}
        if component.worker is None or component.worker.device != "cuda" or not nodes:
            continue
        domain = min(plan.cluster.domain_nodes(plan.cluster.nodes[node]) for node in nodes)
        _check_domain(plan, component, domain, report)
        asked = [name for name in VARIABLES if component.env.get(name, "0") not in ("0", "", "false", "False")]
        if asked and domain == 1:
            report.warning(
                "D316",
                f"`{component.name}` asks for NVLink between nodes, the nodes of `{plan.cluster.name}` have none",
                ((*component.at, "env", asked[0]), ""),
                notes=[f"{', '.join(asked)} of `{component.name}`; an NVLink domain is one node"],
                at_key=True,
            )
    return plan


def _check_domain(plan: Plan, component: Component, domain: int, report: Reporter) -> None:
    spans = [p.part + 1 for p in plan.processes if p.component is component]
    if domain > 1 and max(spans) > domain:
        gpus = plan.cluster.nodes[next(p.node for p in plan.processes if p.component is component)].gpus
        report.warning(
            "D315",
            f"a worker of `{component.name}` spans {max(spans)} nodes, an NVLink domain has {domain}",
            (component.where("tp"), f"{max(spans)} nodes of {spell_count(gpus, 'GPU')}"),
            notes=[f"{domain} x {gpus} = {domain * gpus} GPUs are joined by NVLink"],
        )
