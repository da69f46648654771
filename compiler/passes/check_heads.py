"""Attention heads divide over the ranks that compute attention, which may be fewer than tp."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.layers import Grouped


def check_heads(graph: Graph, report: Reporter) -> Graph:
    """D503 heads, D504 KV heads; nothing is claimed where the sizes of attention do not divide, which is D516."""
    geometry = graph.model.geometry
    for component in graph.components:
        options = component.worker
        if geometry is None or options is None or not dialect(options.engine).capabilities.divides_model:
            continue
        parallel = options.parallel
        if parallel.dp > 1 and not dialect(options.engine).capabilities.external:
            continue  # the engine that is simulated may have dp inside tp
        inside = parallel.attention_cp * (parallel.dp if parallel.dp_inside_tp else 1)
        if parallel.tp % inside == 0 and not _divides(geometry, parallel.attention_tp, options):
            _report(component, options, geometry, report)
    return graph


def _divides(geometry: Geometry, ranks: int, options: WorkerOptions) -> bool:
    """Whether every rank gets as many heads as the others."""
    return geometry.heads % ranks == 0 and _kv_divides(geometry, ranks, options)


def _kv_divides(geometry: Geometry, ranks: int, options: WorkerOptions) -> bool:
    """KV heads are cut or repeated; latent KV is on every rank, and context parallelism cuts tokens instead."""
    plain = all(isinstance(layer.mixer, Grouped) for layer in geometry.blocks)
    if not plain or (options.facts.get("dcp") or 1) > 1:
        return True
    return geometry.kv_heads % ranks == 0 or ranks % geometry.kv_heads == 0


def _report(component: Component, options: WorkerOptions, geometry: Geometry, report: Reporter) -> None:
    parallel, path = options.parallel, component.where("tp")
    ranks, heads, kv_heads = parallel.attention_tp, geometry.heads, geometry.kv_heads
    fitting = next((n for n in range(min(ranks, heads), 0, -1) if n < ranks and _divides(geometry, n, options)), 1)
    remedies = [Remedy((Put(path, fitting),))] if ranks == parallel.tp else []
    within = (
        "" if ranks == parallel.tp else f"attention tp = tp / dp = {parallel.tp} / {parallel.tp // ranks} = {ranks}; "
    )
    over = f"`tp: {ranks}`" if ranks == parallel.tp else f"{ranks} ranks of attention"
    if heads % ranks:
        message = f"{heads} attention heads do not divide over {over}"
        notes = [f"{within}{heads} / {ranks} = {heads // ranks} remainder {heads % ranks}"]
        report.error("D503", message, (path, f"{parallel.tp} ranks"), notes=notes, remedies=remedies)
    else:
        message = f"{kv_heads} KV heads neither divide over {over} nor repeat evenly"
        notes = [f"{within}neither {kv_heads} % {ranks} nor {ranks} % {kv_heads} is 0"]
        report.error("D504", message, (path, f"{parallel.tp} ranks"), notes=notes, remedies=remedies)
