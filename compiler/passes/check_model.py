"""The model has a layer for every stage of a worker and reaches the context it is asked for."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Change, Drop, Path, Put, Remedy, Reporter, spell
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.memory import SIMULATED_SEQUENCES, blocks_of

LIFTED = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN")
"""Variables that let an engine go beyond the positions of a model."""


def check_model(graph: Graph, report: Reporter) -> Graph:
    """D505 layers, D509 context length, D510 a KV pool nobody can size."""
    geometry = graph.model.geometry
    for component in graph.components:
        options = component.worker
        if options is None:
            continue
        _check_pool_known(component, options, geometry, report)
        if geometry is not None and dialect(options.engine).capabilities.divides_model:
            _check_layers(component, options, geometry, report)
            _check_context(component, options, geometry, report)
    return graph


def _check_layers(component: Component, options: WorkerOptions, geometry: Geometry, report: Reporter) -> None:
    if options.parallel.pp > geometry.layers:
        path = component.where("pp")
        report.error(
            "D505",
            f"{geometry.layers} layers leave some of {options.parallel.pp} pipeline stages empty",
            (path, f"at most {geometry.layers}"),
            remedies=[Remedy((Put(path, geometry.layers),))],
        )


def _check_context(component: Component, options: WorkerOptions, geometry: Geometry, report: Reporter) -> None:
    path = component.where("context_length")
    if options.context_length <= geometry.context_length:
        return
    if "model_overrides" in options.facts or any(name in component.env for name in LIFTED):
        report.leave_unchecked(f"{spell(path)}: the model is told to have other positions than it was trained for")
    else:
        bounds = dialect(options.engine).capabilities.bounds_context
        (report.error if bounds else report.warning)(
            "D509",
            f"`{component.name}` wants a context of {options.context_length} tokens, "
            f"the model has {geometry.context_length} positions",
            (path, f"at most {geometry.context_length}"),
            remedies=[Remedy((Put(path, geometry.context_length),))],
        )


def _check_pool_known(
    component: Component, options: WorkerOptions, geometry: Geometry | None, report: Reporter
) -> None:
    engine = dialect(options.engine)
    if not engine.capabilities.external and engine.pool_blocks(geometry, options) is None:
        memory: Path = (*component.at, "kv_memory")
        path = memory if options.kv_bytes is not None else component.at
        blocks = SIMULATED_SEQUENCES * blocks_of(options.context_length, options.block_size)
        changes: tuple[Change, ...] = (Put((*component.at, "kv_blocks"), blocks),)
        if options.kv_bytes is not None:
            changes = (Drop(memory), *changes)
        report.error(
            "D510",
            f"the number of KV blocks of `{component.name}` cannot be known",
            (path, "the bytes of a block follow from the model, of which no card or config.json was found"),
            at_key=True,
            remedies=[Remedy(changes)],
        )
