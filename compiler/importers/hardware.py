"""The cluster a recipe asks for: so many nodes of so many GPUs of a kind. Host facts are typical ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dynamoc.compiler.importers.recipe import name_of


class Host(NamedTuple):
    """What a node with such GPUs usually has beside them, for each GPU."""

    gpu_memory: str
    cpus: int
    memory_gib: int


GENERIC = Host("1 TiB", 28, 512)
"""Of a GPU that is not known: large, so that nothing is refused for want of a fact."""
HOSTS: Mapping[str, Host] = {
    "a100": Host("80 GiB", 28, 256),
    "h100": Host("80 GiB", 28, 256),
    "h200": Host("141 GB", 28, 256),
    "h20": Host("96 GB", 28, 256),
    "b200": Host("180 GiB", 28, 384),
    "b300": Host("270 GiB", 28, 384),
    "gb200": Host("184 GiB", 36, 240),
    "gb300": Host("277 GiB", 36, 240),
    "l40s": Host("48 GB", 16, 96),
    "mi300x": Host("192 GB", 24, 288),
    "mi325x": Host("256 GB", 24, 288),
    "mi355x": Host("288 GB", 24, 384),
}


def cluster_of(kind: str, gpus_per_node: int, nodes: int) -> dict[str, Any]:
    """An inventory of `nodes` nodes alike."""
    host = HOSTS.get(kind.lower(), GENERIC)
    return {
        "name": name_of(f"{kind}x{gpus_per_node}x{nodes}"),
        "nodes": [
            {
                "name": "node",
                "count": max(nodes, 1),
                "cpus": host.cpus * gpus_per_node,
                "memory": f"{host.memory_gib * gpus_per_node} GiB",
                "gpus": {"count": gpus_per_node, "kind": kind.upper(), "memory": host.gpu_memory},
            }
        ],
    }


def host_note(kind: str) -> str:
    """What of the cluster does not come from the recipe."""
    known = kind.lower() in HOSTS
    facts = "cores and host memory of a node are typical ones" if known else "nothing is known of such a GPU"
    return f"{kind}: {facts}; put in what your nodes have"
