"""Evicted KV that workers keep on disk fits the disk of their node."""

from __future__ import annotations

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.graph import Component
from dynamoc.compiler.memory import largest_size, spell_bytes
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.tiers import disk_tier_bytes, lies_in, without_tier


def check_disk_tiers(plan: Plan, report: Reporter) -> Plan:
    """D342 more than the disk holds, a warning where nothing says that the tier is on it; D343 a tier beside it.

    Nodes where the same tier is the largest are one finding: the one that lacks most is named.
    """
    outside: dict[Path, tuple[Node, Component]] = {}
    full: dict[Path, tuple[int, int]] = {}
    for index, node in enumerate(plan.cluster.nodes):
        here = _on_disk(plan, index)
        for process in here if node.disk_path is not None else ():
            if not lies_in(_path(process), node.disk_path):
                outside.setdefault(_cache(plan, process).at, (node, process.component))
        inside = _inside(plan, index)
        excess = sum(map(disk_tier_bytes, inside)) - node.disk_bytes
        if inside and node.disk_bytes and excess > 0:
            place = _cache(plan, max(inside, key=disk_tier_bytes)).at
            full[place] = max(full.get(place, (0, 0)), (excess, index))
    for node, component in outside.values():
        _report_outside(plan, node, component, report)
    for _, index in full.values():
        _report_overflow(plan, index, report)
    return plan


def _on_disk(plan: Plan, index: int) -> list[Process]:
    return [process for process in plan.processes if process.node == index and disk_tier_bytes(process)]


def _inside(plan: Plan, index: int) -> list[Process]:
    """Processes whose tier is on the node's disk, or may be."""
    folder = plan.cluster.nodes[index].disk_path
    return [process for process in _on_disk(plan, index) if folder is None or lies_in(_path(process), folder)]


def _cache(plan: Plan, process: Process) -> Component:
    cache = plan.graph.cache_of(process.component.name)
    assert cache is not None
    return cache


def _path(process: Process) -> str:
    options = process.component.worker
    assert options is not None
    assert options.cache is not None
    assert options.cache.disk is not None
    return options.cache.disk.path


def _report_overflow(plan: Plan, index: int, report: Reporter) -> None:
    node, here = plan.cluster.nodes[index], _inside(plan, index)
    largest = max(here, key=disk_tier_bytes).component
    cache = plan.graph.cache_of(largest.name)
    assert cache is not None
    needed, path = sum(map(disk_tier_bytes, here)), (*cache.at, "tiers", "disk", "size")
    sharing = [process for process in here if plan.graph.cache_of(process.component.name) is cache]
    own = sum(map(disk_tier_bytes, sharing))
    room = largest_size((own - needed + node.disk_bytes) // len(sharing))
    smaller = [Remedy((Put(path, room),))] if room else without_tier(plan.graph, largest, "disk")
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
