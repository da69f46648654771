"""The cluster a recipe asks for: so many nodes of so many GPUs of a kind. Host facts are typical ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoc.compiler.gpus import find_gpu
from dynamoc.compiler.importers.recipe import name_of

HOST_CPUS, HOST_GIB = 28, 256
"""Cores and memory that a node has beside each of its GPUs."""
GRACE_CPUS, GRACE_GIB = 36, 240
"""The same where the CPU is part of the board."""
UNKNOWN_MEMORY = "1 TiB"
"""Of a GPU that is not known: large, so that nothing is refused for want of a fact."""


def cluster_of(kind: str, gpus_per_node: int, nodes: int, site: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An inventory of `nodes` nodes alike."""
    known = find_gpu(kind)
    cpus, gib = (GRACE_CPUS, GRACE_GIB) if kind.lower().startswith("g") else (HOST_CPUS, HOST_GIB)
    gpus: dict[str, Any] = {"count": gpus_per_node, "kind": kind if known is None else known.kind}
    if known is None:
        gpus["memory"] = UNKNOWN_MEMORY
    node = {
        "name": "node",
        "count": max(nodes, 1),
        "cpus": cpus * gpus_per_node,
        "memory": f"{gib * gpus_per_node} GiB",
        "gpus": gpus,
    }
    cluster: dict[str, Any] = {"name": name_of(f"{kind}x{gpus_per_node}x{nodes}"), "nodes": [node]}
    return {**cluster, "site": dict(site)} if site else cluster


def host_note(kind: str) -> str:
    """What of the cluster does not come from the recipe."""
    if find_gpu(kind) is None:
        return f"`{kind}` is not a GPU we know: put in the memory, cores and host memory that your nodes have"
    return f"cores and host memory of a {kind} node are typical ones: put in what your nodes have"
