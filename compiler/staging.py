"""Memory of GPUs through which blocks pass on their way between workers."""

from __future__ import annotations

import msgspec

from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, EdgeKind
from dynamoc.compiler.memory import MIB
from dynamoc.compiler.plan import Plan

SLOTS, SLOT_BYTES = 4, 32 * MIB
"""What transport `nixl` registers for each peer, as the runtime says; a block that is larger has slots of its size."""


class Staging(msgspec.Struct, frozen=True):
    """What one worker registers for its peers."""

    peers: int
    bytes: int


def staging_of(plan: Plan, component: Component, block_bytes: int) -> Staging:
    """Of a worker of our own whose pool is on a GPU; an engine that is a program of its own counts itself."""
    if component.worker is None or dialect(component.worker.engine).capabilities.external:
        return Staging(0, 0)
    others = {
        edge.target if edge.source == component.name else edge.source
        for edge in plan.graph.edges
        if edge.kind is EdgeKind.KV and component.name in (edge.source, edge.target)
        if plan.transports.get((edge.source, edge.target)) == "nixl"
    }
    peers = sum(process.component.name in others for process in plan.processes)
    return Staging(peers, peers * SLOTS * max(SLOT_BYTES, block_bytes))
