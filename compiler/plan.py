"""Who runs where: every worker has GPUs on a node, every process its ports and its words."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.graph import Allowance, Component, Graph
from dynamoc.runtime.manifest import Launch


class Process(msgspec.Struct, frozen=True):
    """One thing an agent starts. `gpus` are indices on the node, `ranks` their positions in the worker."""

    name: str
    component: Component
    replica: int
    part: int
    """Which of its worker's processes this is, one a node; 0 leads."""
    node: int
    gpus: tuple[int, ...]
    ranks: tuple[int, ...]
    cpus: int
    ports: Mapping[str, int]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    kv_blocks: int
    transport: str | None
    launch: Launch | None = None
    """How the engine itself is started, where it is a program of its own."""
    ready_timeout_s: float = 0.0
    """How long its start may take."""


class Plan(msgspec.Struct, frozen=True):
    """The graph placed on a cluster, of which `cluster` keeps the nodes that are used. Nodes are indices into them."""

    graph: Graph
    cluster: Cluster
    processes: tuple[Process, ...]
    transports: Mapping[tuple[str, str], str]
    """The chosen transport of each kv edge, by (source, target) component."""
    unchecked: tuple[str, ...] = ()
    """What no rule could look at."""
    waived: tuple[Allowance, ...] = ()
    """Rules that were broken, and that the user had switched off."""

    @property
    def nodes(self) -> int:
        """How many nodes the plan uses."""
        return 1 + max(process.node for process in self.processes)
