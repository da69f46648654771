"""How long workers take to start: weights by what they are read from, and what an engine does beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.flags import fold
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.tiers import lies_in

ASSUMED_BYTES_PER_S = 250 * 10**6
"""Where nothing is known of the storage: what one slow disk or one shared gigabit link gives, and then some."""
SLACK = 2.0
"""A deadline is for what hangs: twice the reading, as neighbours read too."""
SHORTEST_S = 120.0
NO_WEIGHTS = ("echo", "mocker")


class Reading(msgspec.Struct, frozen=True):
    """What the workers of a node read of the model at least, and from what; `bytes_per_s` of 0 is not known."""

    node: Node
    bytes: float
    bytes_per_s: int
    everywhere: float = 0.0
    total_bytes_per_s: int = 0

    @property
    def seconds(self) -> float:
        """At least, with nothing kept in memory from an earlier run; 0 where the storage is not known."""
        alone = self.bytes / self.bytes_per_s if self.bytes_per_s else 0.0
        return max(alone, self.everywhere / self.total_bytes_per_s if self.total_bytes_per_s else 0.0)

    @property
    def arithmetic(self) -> str:
        """The division that decides."""
        amount, rate = self.bytes, self.bytes_per_s
        if self.total_bytes_per_s and self.everywhere / self.total_bytes_per_s >= self.seconds:
            amount, rate = self.everywhere, self.total_bytes_per_s
        return f"{amount / 1e9:,.1f} GB / {rate / 1e9:g} GB a second = {self.seconds:,.0f} s"


def readings(plan: Plan) -> list[Reading]:
    """Of each node whose workers read weights, where their number is known for sure."""
    geometry = plan.graph.model.geometry
    if geometry is None or not geometry.exact:
        return []
    shares: dict[int, float] = {}
    for process in plan.processes:
        if _reads(process):
            shares[process.node] = max(shares.get(process.node, 0.0), _share(process))
    size, everywhere = geometry.bytes_on_disk, sum(shares.values()) * geometry.bytes_on_disk
    found = []
    for index, share in shares.items():
        node = plan.cluster.nodes[index]
        rate, total = _rates(plan, node)
        found.append(Reading(node, size * share, rate, everywhere, total))
    return found


def reading_nodes(plan: Plan) -> int:
    """Nodes on which a worker reads weights."""
    return len({process.node for process in plan.processes if _reads(process)})


def ready_timeout_s(plan: Plan, process: Process, nodes: int) -> float:
    """How long a start may take while `nodes` read: as the user says, else what engine and a slow reading need."""
    component = process.component
    if component.ready_timeout_s is not None or component.worker is None:
        return component.ready_timeout_s or SHORTEST_S
    allowance, geometry = dialect(component.worker.engine).capabilities.start_s, plan.graph.model.geometry
    if geometry is None or not _reads(process):
        return max(SHORTEST_S, allowance)
    rate, total = _rates(plan, plan.cluster.nodes[process.node])
    slowest = min(rate or ASSUMED_BYTES_PER_S, total / nodes if total else rate or ASSUMED_BYTES_PER_S)
    return max(SHORTEST_S, float(round(allowance + SLACK * geometry.bytes_on_disk / slowest)))


def _reads(process: Process) -> bool:
    options = process.component.worker
    return options is not None and options.engine not in NO_WEIGHTS and not _is_dummy(options.args)


def _is_dummy(args: Mapping[str, Any]) -> bool:
    """Weights may come from elsewhere, or from nowhere: from a server, a peer, or made up."""
    formats = [value for key, value in args.items() if fold(key) == "load_format"]
    return any(str(value).lower() not in ("auto", "safetensors") for value in formats)


def _share(process: Process) -> float:
    """The part of the checkpoint that its ranks need at least."""
    options = process.component.worker
    assert options is not None
    return min(1.0, len(process.gpus) / options.parallel.gpus) if process.gpus else 1.0


def _rates(plan: Plan, node: Node) -> tuple[int, int]:
    """Bytes a second that the model's folder is read at, by one node and by all; 0 where that is not known."""
    folder, storage = _folder(plan), plan.cluster.storage
    if folder is not None and lies_in(folder, node.disk_path):
        return node.disk_bytes_per_s, 0
    if folder is not None and (storage.path is None or lies_in(folder, storage.path)):
        return storage.bytes_per_s, storage.total_bytes_per_s
    return 0, 0


def _folder(plan: Plan) -> str | None:
    """Where the model is; None where engines of their own look it up by name."""
    if plan.graph.model.path is not None:
        return plan.graph.model.path
    workers = [component.worker for component in plan.graph.components if component.worker is not None]
    ours = all(not dialect(options.engine).capabilities.external for options in workers)
    return plan.cluster.model_root if ours else None
