"""Evicted KV that workers keep in host memory fits there, beside what else is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect, tier_bytes
from dynamoc.compiler.graph import Component
from dynamoc.compiler.memory import largest_size, spell_bytes
from dynamoc.compiler.passes.check_memory import host_bytes
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.tiers import host_tier_bytes, without_tier


class Overflow(msgspec.Struct, frozen=True):
    """A node whose `tiers`, by process, and what is `beside` them are more than its `room`."""

    node: Node
    room: int
    tiers: Mapping[str, int]
    beside: int
    largest: Component

    @property
    def needed(self) -> int:
        """Bytes."""
        return self.beside + sum(self.tiers.values())

    @property
    def excess(self) -> int:
        """Bytes."""
        return self.needed - self.room


def check_host_tiers(plan: Plan, report: Reporter) -> Plan:
    """D340 against the node's memory; as a warning D341 against /dev/shm, where an engine keeps its tier there.

    Nodes that are too small for the same tier are one finding: the one that lacks most is named.
    """
    full, full_shared = [], []
    for index, node in enumerate(plan.cluster.nodes):
        here = [process for process in plan.processes if process.node == index]
        beside = sum(host_bytes(plan, process) for process in here)
        if beside <= node.memory_bytes:  # else it is too small without tiers too, and has been reported
            full.append(_overflow(node, node.memory_bytes, here, beside))
        if node.shm_bytes:
            full_shared.append(_overflow(node, node.shm_bytes, [p for p in here if _is_shared(p)], 0))
    for found, others in _worst(plan, full):
        _report_memory(plan, found, others, report)
    for found, others in _worst(plan, full_shared):
        _report_shared(found, others, report)
    return plan


def _overflow(node: Node, room: int, here: Sequence[Process], beside: int) -> Overflow | None:
    """None where everything fits, or nobody has a tier."""
    tiers = {process.name: size for process in here if (size := host_tier_bytes(process))}
    if not tiers or beside + sum(tiers.values()) <= room:
        return None
    largest = max(here, key=host_tier_bytes).component
    return Overflow(node, room, tiers, beside, largest)


def _worst(plan: Plan, candidates: Iterable[Overflow | None]) -> list[tuple[Overflow, int]]:
    """Of all nodes where the same tier is the largest, the one that lacks most, and how many others lack something."""
    groups: dict[Path, list[Overflow]] = {}
    for overflow in candidates:
        if overflow is not None:
            groups.setdefault(_place(plan, overflow.largest), []).append(overflow)
    return [(max(group, key=lambda overflow: overflow.excess), len(group) - 1) for group in groups.values()]


def _is_shared(process: Process) -> bool:
    options = process.component.worker
    return options is not None and dialect(options.engine).keeps_tier_in_shm(options)


def _report_memory(plan: Plan, found: Overflow, others: int, report: Reporter) -> None:
    needed, memory, name = spell_bytes(found.needed), spell_bytes(found.room), found.largest.name
    rest = f" + weights and KV pools {spell_bytes(found.beside)}" if found.beside else ""
    report.error(
        "D340",
        f"the host tiers on node `{found.node.name}` bring its memory to {needed}, it has {memory}",
        (_place(plan, found.largest), f"{spell_bytes(_of_worker(found.largest))} for each worker of `{name}`"),
        notes=[f"{_terms(found.tiers)}{rest} = {needed} > {memory}", *_more(others)],
        remedies=_smaller(plan, found),
    )


def _report_shared(found: Overflow, others: int, report: Reporter) -> None:
    needed, room = spell_bytes(found.needed), spell_bytes(found.room)
    assert found.largest.worker is not None
    report.warning(
        "D341",
        f"the host tiers on node `{found.node.name}` take {needed} of /dev/shm, it has {room}",
        (found.largest.at, f"{found.largest.worker.engine} keeps its host tier in /dev/shm"),
        notes=[f"{_terms(found.tiers)} = {needed} > {room}", *_more(others)],
        at_key=True,
    )


def _more(others: int) -> list[str]:
    return [f"{others} more node{'s' * (others > 1)} too small for it"] if others else []


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


def _smaller(plan: Plan, found: Overflow) -> list[Remedy]:
    """Take the excess from all workers with the same setting; where they have less than that, drop the tier."""
    component, place = found.largest, _place(plan, found.largest)
    sharing = {process.name for process in plan.processes if _place(plan, process.component) == place}
    own = sum(size for name, size in found.tiers.items() if name in sharing)
    size, options = _of_worker(component), component.worker
    assert options is not None
    if not tier_bytes(options):
        fitting = int(options.facts["host_cache"] * (own - found.excess) / own)
        return [Remedy((Put(place, fitting),))] if fitting > 0 else []
    room = largest_size(size * (own - found.excess) // own)
    return [Remedy((Put(place, room),))] if room else without_tier(plan.graph, component, "host")
