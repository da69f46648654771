"""Evicted KV that workers keep in host memory fits there, beside what else is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect, tier_bytes
from dynamoc.compiler.graph import Component
from dynamoc.compiler.memory import MIB, spell_bytes
from dynamoc.compiler.passes.check_memory import host_bytes
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.tiers import host_tier_bytes, without_tier


def check_host_tiers(plan: Plan, report: Reporter) -> Plan:
    """D340 against the node's memory; as a warning D341 against /dev/shm, where an engine keeps its tier there."""
    for index, node in enumerate(plan.cluster.nodes):
        here = [process for process in plan.processes if process.node == index]
        tiers = {process.name: host_tier_bytes(process) for process in here}
        beside = sum(host_bytes(plan, process) for process in here)
        if any(tiers.values()) and beside <= node.memory_bytes < beside + sum(tiers.values()):
            _report_memory(plan, node, here, tiers, report)
        shared = {process.name: tiers[process.name] for process in here if _is_shared(process)}
        if node.shm_bytes and sum(shared.values()) > node.shm_bytes:
            _report_shared(node, here, shared, report)
    return plan


def _is_shared(process: Process) -> bool:
    options = process.component.worker
    return options is not None and dialect(options.engine).keeps_tier_in_shm(options)


def _report_memory(plan: Plan, node: Node, here: Sequence[Process], tiers: Mapping[str, int], report: Reporter) -> None:
    beside = sum(host_bytes(plan, process) for process in here)
    needed, largest = beside + sum(tiers.values()), max(here, key=lambda process: tiers[process.name]).component
    rest = f" + weights and KV pools {spell_bytes(beside)}" if beside else ""
    report.error(
        "D340",
        f"the host tiers on node `{node.name}` bring its memory to {spell_bytes(needed)}, "
        f"it has {spell_bytes(node.memory_bytes)}",
        (_place(plan, largest), f"{spell_bytes(_of_worker(largest))} for each worker of `{largest.name}`"),
        notes=[f"{_terms(tiers)}{rest} = {spell_bytes(needed)}"],
        remedies=_smaller(plan, largest, here, tiers, needed - node.memory_bytes),
    )


def _report_shared(node: Node, here: Sequence[Process], shared: Mapping[str, int], report: Reporter) -> None:
    largest = max((p for p in here if p.name in shared), key=lambda process: shared[process.name]).component
    assert largest.worker is not None
    report.warning(
        "D341",
        f"the host tiers on node `{node.name}` take {spell_bytes(sum(shared.values()))} of /dev/shm, "
        f"it has {spell_bytes(node.shm_bytes)}",
        (largest.at, f"{largest.worker.engine} keeps its host tier in /dev/shm"),
        notes=[f"{_terms(shared)} = {spell_bytes(sum(shared.values()))} > {spell_bytes(node.shm_bytes)}"],
        at_key=True,
    )


def _terms(sizes: Mapping[str, int]) -> str:
    return "host tiers: " + " + ".join(f"`{name}` {spell_bytes(size)}" for name, size in sizes.items() if size)


def _of_worker(component: Component) -> int:
    assert component.worker is not None
    return dialect(component.worker.engine).host_cache_bytes(component.worker)


def _place(plan: Plan, component: Component) -> Path:
    """The tier of its cache, or the engine's own flag."""
    cache = plan.graph.cache_of(component.name)
    told = component.worker is not None and tier_bytes(component.worker) > 0
    return (*cache.at, "tiers", "host") if told and cache is not None else component.where("host_cache")


def _smaller(
    plan: Plan, component: Component, here: Sequence[Process], tiers: Mapping[str, int], excess: int
) -> list[Remedy]:
    """Take the excess from all workers with the same setting; where they have less than that, drop the tier."""
    place = _place(plan, component)
    sharing = [process for process in here if tiers[process.name] and _place(plan, process.component) == place]
    own = sum(tiers[process.name] for process in sharing)
    size, options = _of_worker(component), component.worker
    assert options is not None
    if not place:
        return []
    if not tier_bytes(options):
        fitting = int(options.facts["host_cache"] * (own - excess) / own)
        return [Remedy((Put(place, fitting),))] if fitting > 0 else []
    fitting = size * (own - excess) // own // MIB
    return [Remedy((Put(place, f"{fitting} MiB"),))] if fitting > 0 else without_tier(plan.graph, component, "host")
