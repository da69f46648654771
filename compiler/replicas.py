"""What has to be placed: replicas, the parts of those that span nodes, and what must stay together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Graph
from dynamoc.compiler.packing import Resources, total
from dynamoc.runtime.manifest import Role

ROLE_ORDER = tuple(Role)

Key = tuple[str, int]
"""Component and replica."""


class Replica(msgspec.Struct, frozen=True):
    """One replica of a component, before it has nodes. `parts` is what it needs of each node that it is on."""

    component: Component
    number: int
    parts: tuple[Resources, ...]
    kv_blocks: int

    @property
    def key(self) -> Key:
        """What names it."""
        return self.component.name, self.number

    @property
    def needs(self) -> Resources:
        """Of all its nodes together."""
        return total(self.parts)


Unit = Sequence[Replica]
"""Replicas that stay together on a node; a replica that spans nodes is alone in its unit."""


def replicas_of(graph: Graph, cluster: Cluster) -> list[Replica]:
    """All replicas, frontends first; a cache has none."""
    together = {name for group in graph.same_node for name in group}
    return [
        replica
        for component in sorted(graph.components, key=lambda c: (ROLE_ORDER.index(c.role), c.name))
        if component.cache is None
        for replica in _replicas(graph, component, cluster, component.name in together)
    ]


def _replicas(graph: Graph, component: Component, cluster: Cluster, together: bool) -> list[Replica]:
    """Those of one component: they need the same."""
    options, blocks, parts = component.worker, 0, [Resources()]
    if options is not None:
        engine, node_gpus = dialect(options.engine), max(node.gpus for node in cluster.nodes)
        blocks = engine.pool_blocks(graph.model.geometry, options) or 0
        memory = engine.host_bytes(graph.model.geometry, options, blocks) if options.device == "cpu" else 0
        memory += engine.host_cache_bytes(options)
        needs = Resources(options.allotted, options.cpus or 0, memory)
        parts = [*split(needs, 1 if together else nodes_of(component, node_gpus), node_gpus)]
    return [Replica(component, number, tuple(parts), blocks) for number in range(component.replicas)]


def spans_nodes(component: Component) -> bool:
    """Whether a worker of it can be on several nodes."""
    return component.worker is not None and dialect(component.worker.engine).capabilities.spans_nodes


def nodes_of(component: Component, node_gpus: int) -> int:
    """Nodes that one worker spans: as told, or as few as hold its GPUs where its engine can span nodes."""
    options = component.worker
    if options is None or not spans_nodes(component) or not node_gpus:
        return 1
    return options.nodes_per_worker or max(1, -(-options.allotted // node_gpus))


def split(needs: Resources, nodes: int, node_gpus: int) -> tuple[Resources, ...]:
    """Evenly where that is possible, as engines number their ranks; else node after node is filled."""
    parts, left = [], needs.gpus
    for index in range(nodes):
        gpus = needs.gpus // nodes if needs.gpus % nodes == 0 else min(node_gpus, left - (nodes - index - 1))
        parts.append(Resources(gpus, -(-needs.cpus // nodes), -(-needs.memory_bytes // nodes)))
        left -= gpus
    return tuple(parts)


def units_of(replicas: Sequence[Replica], same_node: Iterable[Sequence[str]]) -> list[Unit]:
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


def needs_of(unit: Unit) -> Resources:
    """Of all its replicas together."""
    return total([replica.needs for replica in unit])


def _size(unit: Unit) -> tuple[int, int, int]:
    needs = needs_of(unit)
    return needs.gpus, needs.cpus, needs.memory_bytes
