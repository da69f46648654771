"""Graph -> Plan: every worker gets nodes and GPUs. What it is told there is decided by the passes over the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from dynamoc.compiler import capacity
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.graph import Component, Graph
from dynamoc.compiler.packing import Resources, fill, pack
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.replicas import Key, Replica, Unit, needs_of, replicas_of, spans_nodes, units_of

FRONT_NODE = 0
"""Where frontends and the router are, unless the spec puts them beside workers."""


class Share(msgspec.Struct, frozen=True):
    """What one replica has of one node."""

    node: int
    gpus: int


Shares = Mapping[Key, tuple[Share, ...]]


class Zone(msgspec.Struct, frozen=True):
    """Nodes that some units have for themselves. `owner` asked for them; the rest of the units share what is left."""

    nodes: tuple[int, ...]
    units: tuple[Unit, ...]
    owner: Component | None = None


def place(graph: Graph, cluster: Cluster, report: Reporter) -> Plan | None:
    """A deterministic placement, or None after reporting D301, D302, D303 or D313."""
    if not _check_totals(graph, cluster, report):
        return None
    replicas = replicas_of(graph, cluster)
    units = units_of(replicas, graph.same_node)
    if not _check_sizes(units, cluster, report):
        return None
    zones = _zones(graph, replicas, units, cluster)
    if zones is None:
        capacity.report_nodes(graph, cluster, report)
        return None
    shares: dict[Key, tuple[Share, ...]] = dict.fromkeys((r.key for r in replicas), (Share(FRONT_NODE, 0),))
    for zone in zones:
        found = _place_zone(zone, cluster)
        if found is None:
            taken = graph.reserve_nodes + sum(len(other.nodes) for other in zones if other.owner or other.units)
            _report_full(graph, zone, cluster, len(cluster.nodes) - taken, report)
            return None
        shares |= found
    used = sorted({share.node for own in shares.values() for share in own} | set(range(graph.reserve_nodes)))
    moved = {key: tuple(Share(used.index(s.node), s.gpus) for s in own) for key, own in shares.items()}
    allocation = replace(cluster, nodes=tuple(cluster.nodes[node] for node in used))
    order = [replica for unit in units for replica in sorted(unit, key=lambda r: -r.needs.gpus)]
    return Plan(graph, allocation, tuple(_processes(replicas, moved, _gpus(order, moved))), {})


def _check_totals(graph: Graph, cluster: Cluster, report: Reporter) -> bool:
    """Whether the cluster has the GPUs and nodes of any one worker, before its parts are counted."""
    there, sizes = sum(node.gpus for node in cluster.nodes), len(cluster.nodes)
    large = [c for c in graph.components if spans_nodes(c) and capacity.gpus_of(c) > there]
    if large and there:
        capacity.report_overflow(large, large[0], None, cluster, report)
        return False
    thin = [c for c in graph.components if c.worker is not None and (c.worker.nodes_per_worker or 1) > sizes]
    for component in thin:
        capacity.report_wide(component, cluster, report)
    return not thin


def _zones(graph: Graph, replicas: Sequence[Replica], units: Sequence[Unit], cluster: Cluster) -> list[Zone] | None:
    """Components with `nodes` come first, each with as many; the others share the rest. None: too few nodes."""
    free = list(range(graph.reserve_nodes, len(cluster.nodes)))
    owners = {r.component.name: r.component for r in replicas if _own_nodes(r.component)}
    zones = []
    for name, owner in owners.items():
        chosen = sorted(sorted(free, key=lambda node: -cluster.nodes[node].gpus)[: _own_nodes(owner)])
        if len(chosen) < _own_nodes(owner):
            return None
        free = [node for node in free if node not in chosen]
        zones.append(Zone(tuple(chosen), tuple(u for u in units if u[0].component.name == name), owner))
    rest = tuple(unit for unit in units if unit[0].component.name not in owners)
    if rest and not free:
        return None
    return [*zones, Zone(tuple(free), rest)] if rest else zones


def _own_nodes(component: Component) -> int:
    return (component.worker.nodes or 0) if component.worker is not None else 0


def _place_zone(zone: Zone, cluster: Cluster) -> dict[Key, tuple[Share, ...]] | None:
    """GPUs must fit; CPUs and memory should: where they cannot, a pass over the plan shows by how much.

    Where the equal parts of workers that span nodes do not fit, their GPUs are taken node after node.
    """
    nodes = [cluster.nodes[index] for index in zone.nodes]
    rooms = [Resources(node.gpus, node.cpus, node.memory_bytes) for node in nodes]
    bare = [Resources(node.gpus) for node in nodes]
    parts = [_parts(unit) for unit in zone.units]
    demands = [part for own in parts for part in own]
    groups = [number for number, own in enumerate(parts) for _ in own]
    chosen = (
        (pack(demands, rooms, groups, spread=True) if zone.owner is not None else None)
        or pack(demands, rooms, groups)
        or pack([Resources(demand.gpus) for demand in demands], bare, groups)
    )
    if chosen is not None:
        ahead = iter(chosen)
        return _shares(zone, [[(next(ahead), part.gpus) for part in own] for own in parts])
    filled = fill([[part.gpus for part in own] for own in parts], [node.gpus for node in nodes])
    return None if filled is None else _shares(zone, filled)


def _parts(unit: Unit) -> Sequence[Resources]:
    """What a unit needs of each node it is on."""
    return unit[0].parts if len(unit) == 1 else [needs_of(unit)]


def _shares(zone: Zone, taken: Sequence[Sequence[tuple[int, int]]]) -> dict[Key, tuple[Share, ...]]:
    """From (node of the zone, GPUs) for each unit; replicas that stay together share the one node of theirs."""
    shares = {}
    for unit, own in zip(zone.units, taken, strict=True):
        for replica in unit:
            gpus = [count for _, count in own] if len(unit) == 1 else [replica.needs.gpus]
            parts = [Share(zone.nodes[n], g) for (n, _), g in zip(own, gpus, strict=True)]
            # Schedulers number the nodes of a step in their own order, which is that of the plan's.
            shares[replica.key] = tuple(sorted(parts, key=lambda share: share.node))
    return shares


def _check_sizes(units: Sequence[Unit], cluster: Cluster, report: Reporter) -> bool:
    """Whether every part has a GPU where its worker has any, and fits an empty node."""
    sparse = {r.component.name: r.component for u in units for r in u if _is_sparse(r.component)}
    for component in sparse.values():
        capacity.report_sparse(component, report)
    largest = max(cluster.nodes, key=lambda node: node.gpus)
    large = {r.component.name: r.component for u in units for r in u if max(p.gpus for p in r.parts) > largest.gpus}
    for component in large.values():
        assert component.worker is not None
        thin = component.worker.nodes_per_worker is not None
        (capacity.report_thin if thin else capacity.report_large)(component, largest, report)
    pinned = [unit for unit in units if len(unit) > 1 and needs_of(unit).gpus > largest.gpus] if not large else []
    for unit in pinned:
        components = {replica.component.name: replica.component for replica in unit}
        capacity.report_pinned(list(components.values()), largest, report)
    return not sparse and not large and not pinned


def _is_sparse(component: Component) -> bool:
    options = component.worker
    return options is not None and 0 < options.allotted < (options.nodes_per_worker or 1)


def _report_full(graph: Graph, zone: Zone, cluster: Cluster, spare: int, report: Reporter) -> None:
    """Blame the component with most GPUs, and find how many of its replicas would fit."""
    nodes = [cluster.nodes[index] for index in zone.nodes]
    if zone.owner is not None:
        capacity.report_own_nodes(zone.owner, nodes, spare, report)
        return
    components = [c for c in graph.components if capacity.gpus_of(c) and not _own_nodes(c)]
    culprit = max(components, key=lambda c: c.replicas * capacity.gpus_of(c))
    spare_gpus = sum(node.gpus for node in nodes) - sum(
        replica.needs.gpus for unit in zone.units for replica in unit if replica.component is not culprit
    )
    fitting = min(culprit.replicas - 1, spare_gpus // capacity.gpus_of(culprit))
    fewer = [[r for r in unit if r.component is not culprit or r.number < fitting] for unit in zone.units]
    if fitting < 1 or _place_zone(Zone(zone.nodes, tuple(unit for unit in fewer if unit)), cluster) is None:
        fitting = 0
    capacity.report_overflow(components, culprit, fitting, replace(cluster, nodes=tuple(nodes)), report)


def _gpus(replicas: Sequence[Replica], shares: Shares) -> dict[tuple[Key, int], tuple[int, ...]]:
    """GPUs of a node are handed out in the order of packing, so those of a worker are contiguous."""
    first: dict[int, int] = {}
    gpus = {}
    for replica in replicas:
        for share in shares[replica.key]:
            start = first.get(share.node, 0)
            gpus[replica.key, share.node] = tuple(range(start, start + share.gpus))
            first[share.node] = start + share.gpus
    return gpus


def _processes(
    replicas: Sequence[Replica], shares: Shares, gpus: Mapping[tuple[Key, int], tuple[int, ...]]
) -> Iterator[Process]:
    """One on each node of a replica; ranks are numbered through."""
    for replica in replicas:
        rank = 0
        for part, share in enumerate(shares[replica.key]):
            own = gpus.get((replica.key, share.node), ())
            yield Process(
                name=f"{replica.component.name}-{replica.number}" + (f"-{part}" if part else ""),
                component=replica.component,
                replica=replica.number,
                part=part,
                node=share.node,
                gpus=own,
                ranks=tuple(range(rank, rank + len(own))),
                cpus=replica.parts[min(part, len(replica.parts) - 1)].cpus,
                ports={},
                argv=(),
                env={},
                kv_blocks=replica.kv_blocks,
                transport=None,
            )
            rank += len(own)
