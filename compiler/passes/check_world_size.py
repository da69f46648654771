"""The GPU ledger: a worker has as many GPUs as it has ranks."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.units import spell_count


def check_world_size(graph: Graph, report: Reporter) -> Graph:
    """D308 more ranks than GPUs, D309 (a warning) more GPUs than ranks."""
    for component in graph.components:
        options = component.worker
        if options is None or options.gpus is None or options.device != "cuda":
            continue
        world = options.parallel.gpus
        if world > options.gpus and not _shared(component, options):
            _report_excess(component, options, options.gpus, report)
        elif world < options.gpus:
            unused, verb = options.gpus - world, "idles" if options.gpus - world == 1 else "idle"
            report.warning(
                "D309",
                f"{unused} of {options.gpus} GPUs of each `{component.name}` worker {verb}",
                ((*component.at, "gpus"), f"{world} would do"),
                notes=[options.parallel.arithmetic],
                remedies=[Remedy((Put((*component.at, "gpus"), world),))],
            )
    return graph


def _shared(component: Component, options: WorkerOptions) -> bool:
    """Whether the world is that of all replicas together: then the role has to have the GPUs, not one worker."""
    world, allotted = options.parallel.gpus, options.gpus or 0
    together = dialect(options.engine).shares_world(options.facts)
    return together and world <= allotted * component.replicas


def _report_excess(component: Component, options: WorkerOptions, gpus: int, report: Reporter) -> None:
    parallel = options.parallel
    largest = max(parallel.factors, key=lambda name: parallel.factors[name])
    path = (*component.at, "gpus")
    inside = "; dp is inside tp" if parallel.dp_inside_tp and parallel.dp > 1 else ""
    report.error(
        "D308",
        f"a worker of `{component.name}` has {spell_count(parallel.gpus, 'rank')} but {spell_count(gpus, 'GPU')}",
        (path, f"{gpus} allotted"),
        (component.where(largest), f"{largest} {parallel.factors[largest]}"),
        notes=[f"{parallel.arithmetic} > {gpus}, as {options.engine} counts{inside}"],
        remedies=[Remedy((Put(path, parallel.gpus),))],
    )
