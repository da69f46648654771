"""The expected load fits the context, and its KV fits the pool."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.load import Load, prompt_sum, request_sum
from dynamoc.compiler.memory import MIB, blocks_of, kv_block_bytes
from dynamoc.compiler.units import spell_count
from dynamoc.runtime.manifest import Role


def check_load(graph: Graph, report: Reporter) -> Graph:
    """D320 context shorter than the load, D321 pool smaller than one request of it, D322 than one full context."""
    for component in graph.components:
        options = component.worker
        if options is None:
            continue
        blocks = dialect(options.engine).pool_blocks(graph.model.geometry, options)
        if graph.load is not None:
            _check_context(graph, component, options, graph.load, report)
            _check_pool(graph, component, options, blocks, report)
        elif blocks is not None and blocks < blocks_of(options.context_length, options.block_size):
            tokens, pool = blocks * options.block_size, spell_count(blocks, "block")
            report.warning(
                "D322",
                f"the KV pool of `{component.name}` holds no sequence of `context_length`",
                ((*component.at, _pool_field(options)), spell_count(tokens, "token")),
                notes=[f"{pool} x {options.block_size} = {tokens} tokens < {options.context_length}"],
            )
    return graph


def _tokens(component: Component, load: Load) -> tuple[int, str]:
    """What one request occupies there: a prefill worker never sees the output."""
    if component.role is Role.PREFILL:
        return load.longest_prompt, prompt_sum(load)
    return load.longest_request, request_sum(load)


def _check_context(graph: Graph, component: Component, options: WorkerOptions, load: Load, report: Reporter) -> None:
    tokens, sum_ = _tokens(component, load)
    if tokens <= options.context_length or not options.context_length:
        return
    path = component.where("context_length")
    geometry = graph.model.geometry
    possible = geometry is None or tokens <= geometry.context_length
    if "context_length" not in options.written and "context_length" not in options.facts:
        path = (*graph.model.at, "ref")
    report.error(
        "D320",
        f"a request of the load does not fit the context of `{component.name}`",
        (path, f"{options.context_length} tokens"),
        (load.at, "the load"),
        notes=[f"{sum_} > {options.context_length}"],
        remedies=[Remedy((Put(path, tokens),))] if possible else [],
    )


def _check_pool(
    graph: Graph, component: Component, options: WorkerOptions, blocks: int | None, report: Reporter
) -> None:
    assert graph.load is not None
    tokens, sum_ = _tokens(component, graph.load)
    needed = blocks_of(tokens, options.block_size)
    if blocks is None or blocks >= needed:
        return
    path = component.where("kv_tokens") if "kv_tokens" in options.facts else (*component.at, _pool_field(options))
    value: int | str = tokens if "kv_tokens" in options.facts else needed
    if options.kv_bytes is not None and graph.model.geometry is not None:
        value = f"{blocks_of(needed * kv_block_bytes(graph.model.geometry, options), MIB)} MiB"
    report.error(
        "D321",
        f"the KV pool of `{component.name}` does not hold one request of the load",
        (path, f"{spell_count(blocks, 'block')} of {spell_count(options.block_size, 'token')}"),
        (graph.load.at, "the load"),
        notes=[f"{sum_} tokens need {spell_count(needed, 'block')}, the pool has {blocks}"],
        remedies=[Remedy((Put(path, value),))],
    )


def _pool_field(options: WorkerOptions) -> str:
    return "kv_memory" if options.kv_bytes is not None else "kv_blocks"
