"""Graph -> Plan: every worker gets a node and GPUs. What it is told there is decided by the passes over the plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dynamoc.compiler import capacity
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Graph
from dynamoc.compiler.packing import Resources, pack, total
from dynamoc.compiler.plan import Plan, Process
from dynamoc.runtime.manifest import Role

FRONT_NODE = 0
"""Where frontends and the router are, unless the spec puts them beside workers."""

ROLE_ORDER = tuple(Role)

Key = tuple[str, int]
"""Component and replica."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of a component, before it has a node."""

    component: Component
    number: int
    needs: Resources
    kv_blocks: int

    @property
    def key(self) -> Key:
        """What names it."""
        return self.component.name, self.number


Unit = Sequence[Replica]
"""Replicas that stay together on a node."""


def place(graph: Graph, cluster: Cluster, report: Reporter) -> Plan | None:
    """A deterministic placement, or None after reporting D301, D302 or D303."""
    replicas = [
        _replica(graph, component, number)
        for component in sorted(graph.components, key=lambda c: (ROLE_ORDER.index(c.role), c.name))
        for number in range(component.replicas)
    ]
    units = _units(replicas, graph.same_node)
    if not _check_sizes(units, cluster, report):
        return None
    chosen = _pack(units, cluster)
    if chosen is None:
        _report_overflow(graph, units, cluster, report)
        return None
    nodes = dict.fromkeys((replica.key for replica in replicas), FRONT_NODE)
    nodes |= {replica.key: node for unit, node in zip(units, chosen, strict=True) for replica in unit}
    used = sorted(set(nodes.values()))
    nodes = {key: used.index(node) for key, node in nodes.items()}
    allocation = replace(cluster, nodes=tuple(cluster.nodes[node] for node in used))
    return Plan(graph, allocation, tuple(_processes(replicas, nodes, _gpus(units, nodes))), {})


def _replica(graph: Graph, component: Component, number: int) -> Replica:
    options = component.worker
    if options is None:
        return Replica(component, number, Resources(), 0)
    engine = dialect(options.engine)
    blocks = engine.pool_blocks(graph.model.geometry, options) or 0
    memory = engine.host_bytes(graph.model.geometry, options, blocks) if options.device == "cpu" else 0
    needs = Resources(capacity.gpus_of(component), options.cpus or 0, memory)
    return Replica(component, number, needs, blocks)


def _units(replicas: Sequence[Replica], same_node: Iterable[Sequence[str]]) -> list[Unit]:
    """Largest need first. Pinned groups that share a component are one; one without workers asks for nothing."""
    groups: list[set[str]] = []
    for names in same_node:
        merged = set(names).union(*(group for group in groups if group & set(names)))
        groups = [group for group in groups if not group & merged] + [merged]
    units: dict[Key, list[Replica]] = {}
    for replica in replicas:
        pinned = next((min(group) for group in groups if replica.component.name in group), None)
        units.setdefault((pinned, -1) if pinned else replica.key, []).append(replica)
    placed = [unit for unit in units.values() if any(replica.component.role.is_worker for replica in unit)]
    return sorted(placed, key=_size, reverse=True)


def _needs(unit: Unit) -> Resources:
    return total([replica.needs for replica in unit])


def _size(unit: Unit) -> tuple[int, int, int]:
    needs = _needs(unit)
    return needs.gpus, needs.cpus, needs.memory_bytes


def _pack(units: Sequence[Unit], cluster: Cluster) -> tuple[int, ...] | None:
    """GPUs must fit; CPUs and memory should: where they cannot, a pass over the plan shows by how much."""
    demands = [_needs(unit) for unit in units]
    rooms = [Resources(node.gpus, node.cpus, node.memory_bytes) for node in cluster.nodes]
    return pack(demands, rooms) or _pack_gpus(units, cluster)


def _pack_gpus(units: Sequence[Unit], cluster: Cluster) -> tuple[int, ...] | None:
    return pack([Resources(_needs(unit).gpus) for unit in units], [Resources(node.gpus) for node in cluster.nodes])


def _check_sizes(units: Sequence[Unit], cluster: Cluster, report: Reporter) -> bool:
    """Whether every unit fits an empty node."""
    largest = max(cluster.nodes, key=lambda node: node.gpus)
    replicas = [replica for unit in units for replica in unit]
    large = {r.component.name: r.component for r in replicas if r.needs.gpus > largest.gpus}
    for component in large.values():
        capacity.report_large(component, largest, report)
    pinned = [unit for unit in units if _needs(unit).gpus > largest.gpus] if not large else []
    for unit in pinned:
        components = {replica.component.name: replica.component for replica in unit}
        capacity.report_pinned(list(components.values()), largest, report)
    return not large and not pinned


def _report_overflow(graph: Graph, units: Sequence[Unit], cluster: Cluster, report: Reporter) -> None:
    """Blame the component with most GPUs, and find how many of its replicas would fit."""
    components = [component for component in graph.components if capacity.gpus_of(component)]
    culprit = max(components, key=lambda c: c.replicas * capacity.gpus_of(c))
    fitting = None
    for replicas in range(culprit.replicas - 1, 0, -1):
        fewer = [[r for r in unit if r.component is not culprit or r.number < replicas] for unit in units]
        needed = total([_needs(unit) for unit in fewer]).gpus
        if needed <= sum(node.gpus for node in cluster.nodes):
            fitting = replicas if _pack_gpus(fewer, cluster) else None
            break
    capacity.report_overflow(components, culprit, fitting, cluster, report)


def _gpus(units: Sequence[Unit], nodes: Mapping[Key, int]) -> dict[Key, tuple[int, ...]]:
    """GPUs of a node are handed out in the order of packing, so those of a worker are contiguous."""
    first = dict.fromkeys(nodes.values(), 0)
    gpus = {}
    for unit in units:
        for replica in sorted(unit, key=lambda r: -r.needs.gpus):
            node = nodes[replica.key]
            gpus[replica.key] = tuple(range(first[node], first[node] + replica.needs.gpus))
            first[node] += replica.needs.gpus
    return gpus


def _processes(
    replicas: Sequence[Replica], nodes: Mapping[Key, int], gpus: Mapping[Key, tuple[int, ...]]
) -> Iterator[Process]:
    for replica in replicas:
        own = gpus.get(replica.key, ())
        yield Process(
            name=f"{replica.component.name}-{replica.number}",
            component=replica.component,
            replica=replica.number,
            node=nodes[replica.key],
            gpus=own,
            ranks=tuple(range(len(own))),
            cpus=replica.needs.cpus,
            ports={},
            argv=(),
            env={},
            kv_blocks=replica.kv_blocks,
            transport=None,
        )
