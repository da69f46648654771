"""The inventory a plan is proved against: nodes, their GPUs, and the site's facts. A file, never a question."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. `memory_bytes` is host memory; `gpu_memory_bytes` that of one GPU."""

    name: str
    cpus: int
    memory_bytes: int
    gpus: int = 0
    gpu_kind: str | None = None
    gpu_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A site. `port_base` is the first port the plan may use on a node (the frontend's own port is the user's)."""

    name: str
    nodes: tuple[Node, ...]
    port_base: int = 21000
    model_root: str = "~/.cache/dynamoc/models"
    provenance: str = ""
    """Where these facts come from, for people."""
