"""The inventory a plan is proved against: nodes, their GPUs, and the site's facts. A file, never a question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from dynamoc.compiler.gpus import find_gpu

DIGEST_BYTES = 16
LAST_PORT = 65535
PORTS = 8192
"""Ports from `port_base` on that plans are spread over."""


class Nics(msgspec.Struct, frozen=True):
    """Network adapters of a node, all alike."""

    count: int
    kind: str
    bytes_per_s: int
    """Of one adapter, one direction."""


class Node(msgspec.Struct, frozen=True):
    """One machine. `memory_bytes` is host memory; `gpu_memory_bytes` that of one GPU; 0 is what is not known."""

    name: str
    cpus: int
    memory_bytes: int
    gpus: int = 0
    gpu_kind: str | None = None
    gpu_memory_bytes: int = 0
    host: str | None = None
    """What the site calls it."""
    gres: str | None = None
    """What the site's scheduler calls its GPUs."""
    disk_bytes: int = 0
    disk_path: str | None = None
    """Where its disk is mounted."""
    disk_bytes_per_s: int = 0
    cpu_flops: float = 0.0
    """Dense bfloat16 FLOP/s of all its cores."""
    shm_bytes: int = 0
    nics: Nics | None = None


class Storage(msgspec.Struct, frozen=True):
    """Where models are: `bytes_per_s` of one node that reads, `total_bytes_per_s` of all together; 0 is not known."""

    path: str | None = None
    bytes_per_s: int = 0
    total_bytes_per_s: int = 0


class Partition(msgspec.Struct, frozen=True):
    """A queue of the scheduler and its limits; None is no limit."""

    name: str
    max_time_s: float | None = None
    max_nodes: int | None = None


class Cluster(msgspec.Struct, frozen=True):
    """A site. `port_base` is the first port the plan may use on a node (the frontend's own port is the user's)."""

    name: str
    nodes: tuple[Node, ...]
    port_base: int = 21000
    model_root: str = "~/.cache/dynamoc/models"
    provenance: str = ""
    """Where these facts come from, for people."""
    nvlink_domain_nodes: int | None = None
    """Nodes that share one NVLink domain; None: what the kind of GPU says."""
    storage: Storage = Storage()
    """What all nodes share."""
    objects_bytes_per_s: int = 0
    """What one node reads from the object store."""
    partitions: tuple[Partition, ...] = ()
    site: Mapping[str, Any] = {}
    """Facts for a scheduler's target, as written: account, container runtime, mounts, interface, directives."""
    digest: str = ""
    """Names the whole inventory, also where `nodes` are only those that a plan uses."""

    @property
    def port_range(self) -> tuple[int, int]:
        """The first port that a plan may use on a node, and how many there are."""
        return self.port_base, min(PORTS, LAST_PORT + 1 - self.port_base)

    def domain_nodes(self, node: Node) -> int:
        """Nodes of its kind whose GPUs reach each other over NVLink."""
        if self.nvlink_domain_nodes is not None:
            return self.nvlink_domain_nodes
        gpu = find_gpu(node.gpu_kind)
        return 1 if gpu is None or not node.gpus else max(1, gpu.nvlink_domain // node.gpus)

    def partition(self, name: str) -> Partition | None:
        """The partition of a name."""
        return next((partition for partition in self.partitions if partition.name == name), None)

    def facts(self) -> dict[str, Any]:
        """All of it as plain data, without the digest."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if key != "digest"}


def digest_of(cluster: Cluster) -> str:
    """A hash of the facts; where they come from and how they are written does not matter."""
    facts = {key: value for key, value in cluster.facts().items() if key != "provenance"}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
