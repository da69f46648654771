"""Weights and KV pools of the workers on a node fit its memory."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.memory import MIB, blocks_of, kv_block_bytes, spell_bytes
from dynamoc.compiler.plan import Plan, Process


def check_memory(plan: Plan, report: Reporter) -> Plan:
    """D305, with what each component of the node needs at least."""
    for index, node in enumerate(plan.cluster.nodes):
        needs = {p.name: host_bytes(plan, p) for p in plan.processes if p.node == index}
        needed = sum(needs.values())
        if needed > node.memory_bytes:
            _report_overflow(plan, index, needs, report)
    return plan


def host_bytes(plan: Plan, process: Process) -> int:
    """Host memory of a process, at least."""
    options = process.component.worker
    if options is None or options.device != "cpu":
        return 0
    return dialect(options.engine).host_bytes(plan.graph.model.geometry, options, process.kv_blocks)


def _report_overflow(plan: Plan, index: int, needs: dict[str, int], report: Reporter) -> None:
    node = plan.cluster.nodes[index]
    largest = max(plan.processes, key=lambda p: needs.get(p.name, 0))
    options = largest.component.worker
    assert options is not None
    field = "kv_memory" if options.kv_bytes is not None else "kv_blocks"
    path = (*largest.component.at, field)
    terms = " + ".join(f"`{name}` {spell_bytes(size)}" for name, size in needs.items() if size)
    report.error(
        "D305",
        f"the workers on node `{node.name}` need {spell_bytes(sum(needs.values()))} of host memory, "
        f"it has {spell_bytes(node.memory_bytes)}",
        (path, f"{largest.kv_blocks} KV blocks a worker"),
        notes=[f"weights and KV pool: {terms}"],
        remedies=_smaller_pool(plan, largest, sum(needs.values()) - node.memory_bytes),
    )


def _smaller_pool(plan: Plan, process: Process, excess: int) -> list[Remedy]:
    """Fewer blocks for the largest component, if a sequence of full length still fits."""
    geometry, options = plan.graph.model.geometry, process.component.worker
    assert geometry is not None
    assert options is not None
    beside = sum(p.component is process.component and p.node == process.node for p in plan.processes)
    fewer = blocks_of(-(-excess // beside), kv_block_bytes(geometry, options))
    blocks = process.kv_blocks - fewer
    if blocks < blocks_of(options.context_length, options.block_size):
        return []
    if options.kv_bytes is None:
        return [Remedy((Put((*process.component.at, "kv_blocks"), blocks),))]
    size = blocks * kv_block_bytes(geometry, options) // MIB
    return [Remedy((Put((*process.component.at, "kv_memory"), f"{size} MiB"),))]
