"""Experts divide over the ranks that hold them."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.units import spell_count


def check_experts(graph: Graph, report: Reporter) -> Graph:
    """D512 ranks over ep, D514 experts over ep, D515 the two ways to cut experts against tp."""
    for component in graph.components:
        if component.worker is not None:
            _check_ranks(component, component.worker, report)
            _check_product(component, component.worker, report)
            _check_experts(component, component.worker, graph.model.geometry, report)
    return graph


def _check_ranks(component: Component, options: WorkerOptions, report: Reporter) -> None:
    parallel, ranks = options.parallel, dialect(options.engine).expert_ranks(options.parallel)
    ep, path = parallel.ep, component.where("ep")
    if ranks.count % ep == 0 and (ep in (1, ranks.count) or not ranks.indivisible):
        return
    fact = (
        f"`ep: {ep}` does not divide the {spell_count(ranks.count, 'rank')} that can hold experts of `{component.name}`"
    )
    leaves = f"{ranks.count} / {ep} leaves {ranks.count % ep}"
    if ranks.count % ep == 0:
        fact = f"`{component.name}` cannot spread experts over {ep} of its {ranks.count} ranks"
        leaves = f"{options.engine} spreads them over all or none"
    report.error(
        "D512",
        fact,
        (path, ""),
        notes=[f"{ranks.arithmetic}; {leaves}"],
        remedies=[Remedy((Put(path, ranks.count),))],
    )


def _check_product(component: Component, options: WorkerOptions, report: Reporter) -> None:
    """TensorRT-LLM's three sizes; with context parallelism the ranks of both may be counted together."""
    facts, parallel = options.facts, options.parallel
    if "moe_tp" not in facts or parallel.cp > 1:
        return
    moe_tp, cluster = facts["moe_tp"], facts.get("moe_cluster") or 1
    if min(moe_tp, cluster) < 1 or moe_tp * parallel.ep * cluster == parallel.tp:
        return
    path = component.where("moe_tp")
    fitting, ways = parallel.tp // (parallel.ep * cluster), moe_tp * parallel.ep * cluster
    report.error(
        "D515",
        f"experts of `{component.name}` are cut {ways} ways over {spell_count(parallel.tp, 'rank')}",
        (path, ""),
        (component.where("tp"), f"tp {parallel.tp}"),
        notes=[f"moe_tp x moe_ep x cluster = {moe_tp} x {parallel.ep} x {cluster}, tp = {parallel.tp}"],
        remedies=[Remedy((Put(path, fitting),))] if fitting * parallel.ep * cluster == parallel.tp else [],
    )


def _check_experts(component: Component, options: WorkerOptions, geometry: Geometry | None, report: Reporter) -> None:
    """Redundant experts count; an engine that spreads a remainder claims nothing."""
    facts, ep = options.facts, options.parallel.ep
    slots, redundant = facts.get("expert_slots"), facts.get("redundant_experts") or 0
    routed = None if geometry is None or geometry.experts is None else geometry.experts.routed
    if ep <= 1 or (slots is None and (routed is None or not dialect(options.engine).divides_experts(facts))):
        return
    total = slots if isinstance(slots, int) else (routed or 0) + int(redundant)
    if total % ep == 0:
        return
    fact = "expert_slots" if slots is not None else "redundant_experts" if redundant else "ep"
    sum_ = f"{total} slots" if slots is not None else f"{routed} + {redundant} redundant = {total} experts"
    more = -total % ep
    path = component.where(fact)
    report.error(
        "D514",
        f"{total} experts do not divide over `ep: {ep}` of `{component.name}`",
        (path, ""),
        notes=[f"{sum_}; {total} / {ep} leaves {total % ep}"],
        remedies=[] if fact == "ep" else [Remedy((Put(path, (slots if slots is not None else redundant) + more),))],
    )
