"""A KV pool of a size that the spec says fits the GPU beside the weights. An error needs a proof; an estimate warns."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.gpu_memory import LEAST_RUNTIME, Pool
from dynamoc.compiler.memory import MIB, blocks_of, kv_block_bytes, spell_bytes
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.staging import Staging, staging_of
from dynamoc.compiler.units import spell_count
from dynamoc.compiler.worker_memory import WorkerMemory, smallest_gpus, worker_memory


def check_gpu_overflow(plan: Plan, report: Reporter) -> Plan:
    """D332, for engines that make their pool as large as they are told."""
    for name, gpu_bytes in smallest_gpus(plan).items():
        found = worker_memory(plan.graph, plan.graph.component(name), gpu_bytes)
        if isinstance(found, WorkerMemory) and found.sure and found.usage.pool is Pool.TOLD:
            assert found.component.worker is not None
            block_bytes = kv_block_bytes(found.geometry, found.component.worker)
            _check(found, staging_of(plan, found.component, block_bytes), report)
    return plan


def _check(found: WorkerMemory, staging: Staging, report: Reporter) -> None:
    best = found.best
    if best.weights + LEAST_RUNTIME > best.gpu:
        return  # D330: no pool is small enough
    if best.spare < staging.bytes:
        _report(found, staging, LEAST_RUNTIME, report, proved=True)
    elif found.expected.spare < staging.bytes:
        _report(found, staging, int(found.expected.activations + found.expected.runtime), report, proved=False)


def _report(found: WorkerMemory, staging: Staging, beside: int, report: Reporter, *, proved: bool) -> None:
    component, seen = found.component, found.best
    weights, pool = int(seen.weights), int(seen.kv)
    options = component.worker
    assert options is not None
    path: Path = next(
        (component.where(field) for field in ("kv_memory", "kv_blocks") if field in options.written), component.at
    )
    blocks = spell_count(pool // kv_block_bytes(found.geometry, options), "KV block")
    tell, what = (report.error, "the least there is") if proved else (report.warning, "as far as we can estimate it")
    tell(
        "D332",
        f"weights and KV pool of a `{component.name}` worker {'need' if proved else 'may need'} "
        f"{spell_bytes(weights + pool + staging.bytes + beside)} of GPU memory, a GPU has {spell_bytes(seen.gpu)}",
        (path, blocks if path != component.at else ""),
        notes=[
            f"weights {spell_bytes(weights)}, KV pool {spell_bytes(pool)}",
            *_of_slots(staging),
            f"{spell_bytes(beside)} for everything else, {what}",
        ],
        remedies=_smaller_pool(found, staging),
        at_key=path == component.at,
    )


def _of_slots(staging: Staging) -> list[str]:
    if not staging.peers:
        return []
    each = spell_bytes(staging.bytes // staging.peers)
    slots = f"{spell_bytes(staging.bytes)} of slots for `nixl`"
    return [f"{slots}: {spell_count(staging.peers, 'peer')} x {each}"]


def _smaller_pool(found: WorkerMemory, staging: Staging) -> list[Remedy]:
    """As many blocks as we expect to fit, if a sequence of full length is not more."""
    options = found.component.worker
    assert options is not None
    block_bytes = kv_block_bytes(found.geometry, options)
    blocks = int(found.expected.spare + found.expected.kv - staging.bytes) // block_bytes
    if blocks < blocks_of(options.context_length, options.block_size):
        return []
    if options.kv_bytes is None:
        return [Remedy((Put((*found.component.at, "kv_blocks"), blocks),))]
    return [Remedy((Put((*found.component.at, "kv_memory"), f"{blocks * block_bytes // MIB} MiB"),))]
