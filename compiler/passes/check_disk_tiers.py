"""Evicted KV that workers keep on disk fits the disk of their node."""

from __future__ import annotations

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.graph import Component
from dynamoc.compiler.memory import MIB, spell_bytes
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.tiers import disk_tier_bytes, lies_in, without_tier


def check_disk_tiers(plan: Plan, report: Reporter) -> Plan:
    """D342 more than the disk holds, a warning where nothing says that the tier is on it; D343 a tier beside it."""
    for index, node in enumerate(plan.cluster.nodes):
        here = [process for process in plan.processes if process.node == index and disk_tier_bytes(process)]
        outside = [] if node.disk_path is None else [p for p in here if not lies_in(_path(p), node.disk_path)]
        for component in {process.component.name: process.component for process in outside}.values():
            _report_outside(plan, node, component, report)
        inside = [process for process in here if process not in outside]
        if node.disk_bytes and sum(map(disk_tier_bytes, inside)) > node.disk_bytes:
            _report_overflow(plan, node, inside, report)
    return plan


def _path(process: Process) -> str:
    options = process.component.worker
    assert options is not None
    assert options.cache is not None
    assert options.cache.disk is not None
    return options.cache.disk.path


def _report_overflow(plan: Plan, node: Node, here: list[Process], report: Reporter) -> None:
    largest = max(here, key=disk_tier_bytes).component
    cache = plan.graph.cache_of(largest.name)
    assert cache is not None
    needed, path = sum(map(disk_tier_bytes, here)), (*cache.at, "tiers", "disk", "size")
    sharing = [process for process in here if plan.graph.cache_of(process.component.name) is cache]
    own = sum(map(disk_tier_bytes, sharing))
    fitting = (own - needed + node.disk_bytes) // len(sharing) // MIB
    smaller = [Remedy((Put(path, f"{fitting} MiB"),))] if fitting > 0 else without_tier(plan.graph, largest, "disk")
    terms = " + ".join(f"`{process.name}` {spell_bytes(disk_tier_bytes(process))}" for process in here)
    (report.error if node.disk_path is not None else report.warning)(
        "D342",
        f"the disk tiers on node `{node.name}` take {spell_bytes(needed)}, its disk has {spell_bytes(node.disk_bytes)}",
        (path, f"for each worker, {len(sharing)} on the node"),
        notes=[f"{terms} = {spell_bytes(needed)} > {spell_bytes(node.disk_bytes)}"],
        remedies=smaller,
    )


def _report_outside(plan: Plan, node: Node, component: Component, report: Reporter) -> None:
    cache = plan.graph.cache_of(component.name)
    assert cache is not None
    assert cache.cache is not None
    assert cache.cache.disk is not None
    path = (*cache.at, "tiers", "disk", "path")
    inside = f"{str(node.disk_path).rstrip('/')}/{cache.cache.disk.path.rstrip('/').rpartition('/')[2] or 'kv'}"
    report.warning(
        "D343",
        f"the disk tier of `{cache.name}` is not on the disk of node `{node.name}`",
        (path, f"the disk is at `{node.disk_path}`"),
        notes=["what is behind another path may be shared, or memory: its size and speed are not known"],
        remedies=[Remedy((Put(path, inside),))],
    )
