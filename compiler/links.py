"""What joins the GPUs of nodes, as far as their kinds are known."""

from __future__ import annotations

from collections.abc import Iterable

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.gpus import find_gpu


def are_joined(cluster: Cluster, nodes: Iterable[int]) -> bool:
    """Whether each of these nodes' GPUs maps memory of all others over NVLink; so it is where nobody knows better."""
    named = set(nodes)
    return len(named) < 2 and not kinds_without_nvlink(cluster, named)


def kinds_without_nvlink(cluster: Cluster, nodes: Iterable[int]) -> list[str]:
    """Those among the GPUs of these nodes."""
    kinds = [find_gpu(cluster.nodes[node].gpu_kind) for node in sorted(nodes)]
    return [kind.kind for kind in kinds if kind is not None and kind.nvlink_domain < 2]
