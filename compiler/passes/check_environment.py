"""Variables that the plan or the agent sets are not the user's to set."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Drop, Remedy, Reporter
from dynamoc.compiler.graph import Graph

OWNED = ("CUDA_VISIBLE_DEVICES", "DYNAMOC_INCARNATION", "DYNAMOC_NOTIFY_FD", "DYNAMOC_RUN_DIR")


def check_environment(graph: Graph, report: Reporter) -> Graph:
    """D513: the GPU ledger would no longer be true, or the agent not heard."""
    for component in graph.components:
        for name in OWNED:
            if name in component.env:
                path = (*component.at, "env", name)
                report.error(
                    "D513",
                    f"`{name}` is set by dynamoc itself",
                    (path, ""),
                    at_key=True,
                    remedies=[Remedy((Drop(path),))],
                )
    return graph
