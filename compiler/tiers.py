"""What the tiers of workers ask of a node, and how a worker is let go of its cache."""

from __future__ import annotations

import itertools
from pathlib import PurePosixPath

from dynamoc.compiler.diagnostics import Change, Drop, Put, Remedy
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Edge, EdgeKind, Graph
from dynamoc.compiler.plan import Process
from dynamoc.runtime.manifest import CacheSettings

TIERS = ("host", "disk", "object")
"""From the fastest to the largest: G2, G3, G4."""


def sizes_of(cache: CacheSettings) -> dict[str, int | None]:
    """Bytes of each tier that is there; None where it has no bound."""
    sizes: dict[str, int | None] = {} if cache.host_bytes is None else {"host": cache.host_bytes}
    sizes |= {} if cache.disk is None else {"disk": cache.disk.bytes}
    return sizes | ({} if cache.object is None else {"object": cache.object.bytes})


def host_tier_bytes(process: Process) -> int:
    """Host memory that a process keeps evicted KV in, at least: its ranks' part of that of its worker."""
    options = process.component.worker
    if options is None:
        return 0
    size = dialect(options.engine).host_cache_bytes(options)
    return size * len(process.gpus) // options.allotted if options.allotted else size


def disk_tier_bytes(process: Process) -> int:
    """What a process keeps on its node's disk."""
    options = process.component.worker
    if options is None or options.cache is None or options.cache.disk is None or process.part:
        return 0
    return options.cache.disk.bytes


def lies_in(path: str, folder: str | None) -> bool:
    """Whether a path is a folder or below it; without a folder nothing is known."""
    return folder is not None and PurePosixPath(path).is_relative_to(folder)


def without_tier(graph: Graph, component: Component, tier: str) -> list[Remedy]:
    """Drop a tier of the cache of a component; a cache has at least one, so the last one goes with its edge."""
    cache = graph.cache_of(component.name)
    if cache is None or cache.cache is None or not cache.at:
        return []
    if len(sizes_of(cache.cache)) > 1:
        return [Remedy((Drop((*cache.at, "tiers", tier)),))]
    return without_cache(graph, component)


def without_cache(graph: Graph, component: Component) -> list[Remedy]:
    """Take its edge to the cache away, where there is one."""
    own = [edge for edge in graph.edges if edge.source == component.name and edge.kind is EdgeKind.CACHE]
    return without_edge(graph, own[0]) if len(own) == 1 else []


def without_edge(graph: Graph, edge: Edge) -> list[Remedy]:
    """Take an edge to a cache away, and with its last edge the cache too."""
    cut, cache = _without_edge(graph, edge), graph.component(edge.target)
    named = any(cache.name in group for group in graph.same_node)
    last = sum(other.target == cache.name for other in graph.edges) == 1
    if cut is None or not edge.at or (last and named):
        return []
    text = f"remove the edge from `{edge.source}` to `{cache.name}`"
    return [Remedy((cut, Drop(cache.at)), f"{text}, and the cache") if last else Remedy((cut,), text)]


def _without_edge(graph: Graph, edge: Edge) -> Change | None:
    """The entry without this edge, at which its chain ends; None where the rest is no chain."""
    rest = [other for other in graph.edges if other.at == edge.at and other is not edge]
    if not rest:
        return Drop(edge.at)
    if any(one.target != other.source for one, other in itertools.pairwise(rest)):
        return None
    return Put(edge.at, " -> ".join([rest[0].source, *(other.target for other in rest)]))
