"""Blocks come back from a tier sooner than they could be computed again."""

from __future__ import annotations

from collections.abc import Iterator

from dynamoc.compiler.cluster import Node
from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpus import find_gpu
from dynamoc.compiler.graph import WorkerOptions
from dynamoc.compiler.layers import Experts
from dynamoc.compiler.memory import ITEM_BYTES, kv_block_bytes, spell_bytes
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.tiers import without_tier

EFFICIENCY = 0.5
"""Of the peak, what prefill reaches in practice on long prompts."""


def check_onboarding(plan: Plan, report: Reporter) -> Plan:
    """D347, a warning: a block takes longer to read than to compute, where the inventory says how fast both are."""
    geometry = plan.graph.model.geometry
    leaders = {p.component.name: p for p in plan.processes if p.part == 0} if geometry is not None else {}
    for process in leaders.values():
        options, node = process.component.worker, plan.cluster.nodes[process.node]
        if geometry is None or options is None or options.cache is None or options.kv_dtype not in ITEM_BYTES:
            continue
        block, work = kv_block_bytes(geometry, options), 2 * _active(geometry) * options.block_size
        flops = _flops(process, node)
        for tier, rate in _rates(plan, node, options) if flops else ():
            if block / rate > work / (EFFICIENCY * flops):
                _report(plan, process, tier, (block, rate), (work, flops), report)
    return plan


def _report(
    plan: Plan, process: Process, tier: str, read: tuple[int, int], computed: tuple[float, float], report: Reporter
) -> None:
    """`read` is bytes of a block and bytes a second, `computed` its FLOP and FLOP a second at the peak."""
    component, (block, rate), (work, flops) = process.component, read, computed
    cache = plan.graph.cache_of(component.name)
    assert cache is not None
    speed = f"{EFFICIENCY:g} x {flops / 1e12:.3g} TFLOP a second"
    report.warning(
        "D347",
        f"a block of `{component.name}` is computed again sooner than it is read from the {tier} tier",
        ((*cache.at, "tiers", tier), f"{rate / 1e9:g} GB a second"),
        notes=[
            f"reading: {spell_bytes(block)} / {rate / 1e9:g} GB a second = {_ms(block / rate)}",
            f"computing: {work / 1e12:.3g} TFLOP / ({speed}) = {_ms(work / (EFFICIENCY * flops))}",
        ],
        at_key=True,
        remedies=without_tier(plan.graph, component, tier),
    )


def _rates(plan: Plan, node: Node, options: WorkerOptions) -> Iterator[tuple[str, int]]:
    """Bytes a second of the tiers whose speed is known, with nobody else reading."""
    cache = options.cache
    if cache is not None and cache.disk is not None and node.disk_bytes_per_s:
        yield "disk", node.disk_bytes_per_s
    remote = cache is not None and cache.object is not None and cache.object.url.startswith("s3:")
    if remote and plan.cluster.objects_bytes_per_s:
        yield "object", plan.cluster.objects_bytes_per_s


def _flops(process: Process, node: Node) -> float:
    """Peak of what one worker has; 0 where it is not known."""
    if not process.gpus:
        return node.cpu_flops * process.cpus / node.cpus
    gpu, options = find_gpu(node.gpu_kind), process.component.worker
    assert options is not None
    return 0.0 if gpu is None else gpu.bf16 * options.parallel.gpus


def _active(geometry: Geometry) -> float:
    """Elements of all layers that one token is multiplied with."""
    active = 0.0
    for layer in geometry.blocks:
        part = layer.mlp.active / layer.mlp.routed if isinstance(layer.mlp, Experts) else 1.0
        active += sum(w.elements * (part if w.part == "experts" else 1) for w in layer.weights(geometry.hidden))
    return active


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
