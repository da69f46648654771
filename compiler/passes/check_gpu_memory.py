"""Weights and the KV of one request fit the GPUs of a worker. An error needs a proof; an estimate only warns."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.gpu_memory import LEAST_RUNTIME, Account, Pool, account
from dynamoc.compiler.graph import Component
from dynamoc.compiler.memory import spell_bytes
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.units import spell_count
from dynamoc.compiler.worker_memory import WorkerMemory, smallest_gpus, worker_memory

FRACTIONS = (0.8, 0.85, 0.9, 0.95)


def check_gpu_memory(plan: Plan, report: Reporter) -> Plan:
    """D330 weights that exceed a GPU, D331 a memory fraction that leaves no room for one request."""
    for component, gpu_bytes in smallest_gpus(plan).items():
        found = worker_memory(plan.graph, plan.graph.component(component), gpu_bytes)
        if isinstance(found, str):
            report.leave_unchecked(f"GPU memory of `{component}`: {found}")
        elif found is not None:
            _check(plan, found, report)
    return plan


def _check(plan: Plan, found: WorkerMemory, report: Reporter) -> None:
    name = found.component.name
    if not found.sure:
        report.leave_unchecked(f"GPU memory of `{name}`: the format of its weights is not known for certain")
        return
    best = found.best
    if best.weights + LEAST_RUNTIME > best.gpu:
        _report_weights(plan, found, report)
        return
    if found.usage.pool is Pool.TOLD:
        return  # what is left does not make the pool: `check_gpu_overflow`
    for tokens, what in _needs(found):
        if best.kv < found.least_bytes_of(tokens):
            _report_pool(found, best, tokens, what, report, proved=True)
            return
    for tokens, what in _needs(found):
        if found.expected.kv < found.bytes_of(tokens):
            _report_pool(found, found.expected, tokens, what, report, proved=False)
            return


def _needs(found: WorkerMemory) -> Iterator[tuple[int, str]]:
    """Sequences that must fit: a request of the load, and with some engines one of full length."""
    if found.request is not None:
        yield found.request, "one request of the load"
    options = found.component.worker
    if found.usage.needs_context and options is not None and options.context_length:
        yield options.context_length, "one sequence of full length"
    if found.request is None:
        yield 1, "a single token"


def _report_weights(plan: Plan, found: WorkerMemory, report: Reporter) -> None:
    component, best = found.component, found.best
    ranks = component.worker.parallel.gpus if component.worker is not None else 1
    weights, gpu = int(best.weights), best.gpu
    total = spell_bytes(weights + LEAST_RUNTIME)
    report.error(
        "D330",
        f"the weights of {plan.graph.model.ref} do not fit the GPUs of a `{component.name}` worker",
        (_size_path(component), spell_count(ranks, "rank")),
        notes=[
            f"{found.geometry.parameters / 1e9:,.1f} billion parameters are {spell_bytes(weights)} on a rank",
            f"with {spell_bytes(LEAST_RUNTIME)} for the driver, the least there is: {total} > {spell_bytes(gpu)}",
        ],
        remedies=_wider(plan, found),
    )


def _size_path(component: Component) -> Path:
    """Where the tensor parallel size stands; the component, where nothing says it."""
    options = component.worker
    told = options is not None and ("tp" in options.facts or "parallel.tp" in options.written)
    return component.where("tp") if told else component.at


def _wider(plan: Plan, found: WorkerMemory) -> list[Remedy]:
    """More tensor parallel ranks, where that is one number in the spec and a node has the GPUs."""
    component, geometry = found.component, found.geometry
    options = component.worker
    assert options is not None
    parallel = options.parallel
    room = min(node.gpus for node in plan.cluster.nodes if node.gpus)
    if "tp" not in dialect(options.engine).capabilities.dimensions:
        return []
    if options.gpus is not None or parallel.dp > 1 or parallel.ep > 1 or parallel.pp > 1:
        return []
    for tp in (2 * parallel.tp, 4 * parallel.tp, 8 * parallel.tp):
        if tp > room or geometry.heads % tp or (geometry.kv_heads % tp and tp % geometry.kv_heads):
            return []
        wider = replace(component, worker=replace(options, parallel=replace(parallel, tp=tp)))
        again = worker_memory(plan.graph, wider, found.best.gpu)
        if isinstance(again, WorkerMemory) and all(again.expected.kv >= again.bytes_of(t) for t, _ in _needs(again)):
            return [Remedy((Put(component.where("tp"), tp),))]
    return []


def _report_pool(found: WorkerMemory, seen: Account, tokens: int, what: str, report: Reporter, *, proved: bool) -> None:
    component, usage = found.component, found.usage
    needed = found.least_bytes_of(tokens) if proved else found.bytes_of(tokens)
    stands = not usage.fraction_is_ours
    path = component.where("memory_fraction") if stands else component.at
    room = spell_bytes(max(0, int(seen.kv)))
    beside = spell_bytes(int(seen.activations + seen.communication + seen.runtime))
    tell = report.error if proved else report.warning
    tell(
        "D331",
        f"a rank of `{component.name}` has {'at most ' if proved else 'perhaps '}{room} for KV, "
        f"{what} needs {spell_bytes(int(needed))}",
        (path, f"{usage.fraction:g} of a GPU of {spell_bytes(seen.gpu)}" if stands else ""),
        notes=[
            f"weights {spell_bytes(int(seen.weights))}, activations, buffers and runtime {beside}",
            f"KV of {spell_count(tokens, 'token')} takes {spell_bytes(int(needed))} on a rank",
        ],
        remedies=_larger_fraction(found) if stands else (),
        at_key=not stands,
    )


def _larger_fraction(found: WorkerMemory) -> list[Remedy]:
    for fraction in FRACTIONS:
        seen = account(found.geometry, replace(found.usage, fraction=fraction), found.best.gpu)
        if fraction > found.usage.fraction and all(seen.kv >= found.bytes_of(tokens) for tokens, _ in _needs(found)):
            return [Remedy((Put(found.component.where("memory_fraction"), fraction),))]
    return []
