"""What is inside tp divides it: data-parallel and context-parallel ranks of attention."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.graph import Component, Graph, WorkerOptions

MOST = 4096
"""Where the search for a fitting size starts at most."""


def check_attention(graph: Graph, report: Reporter) -> Graph:
    """D516, with what is inside."""
    for component in graph.components:
        if component.worker is not None:
            _check(component, component.worker, report)
    return graph


def _check(component: Component, options: WorkerOptions, report: Reporter) -> None:
    parallel = options.parallel
    inside = {"dp": parallel.dp} if parallel.dp_inside_tp else {}
    inside |= {"attention_cp": parallel.attention_cp, "dcp": options.facts.get("dcp") or 1}
    sizes = {name: size for name, size in inside.items() if size > 1}
    for name, size in sizes.items():
        if parallel.tp % size == 0:
            continue
        path = component.where(name if name != "dp" or "attention_dp" not in options.facts else "attention_dp")
        fitting = next(n for n in range(min(size, MOST), 0, -1) if parallel.tp % n == 0)
        report.error(
            "D516",
            f"`{name}: {size}` does not divide `tp: {parallel.tp}` of `{component.name}`",
            (path, "inside tp"),
            (component.where("tp"), f"tp {parallel.tp}"),
            notes=[f"{parallel.tp} / {size} = {parallel.tp // size} remainder {parallel.tp % size}"],
            remedies=[Remedy((Put(path, fitting),))],
        )
