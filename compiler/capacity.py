"""What is said when workers do not fit: who needs how many GPUs, what there is, and what would fit."""

from __future__ import annotations

from collections.abc import Sequence

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component

NODES_SHOWN = 8


def report_large(component: Component, largest: Node, report: Reporter) -> None:
    """D301: one worker is larger than any node."""
    assert component.worker is not None
    parallel = component.worker.parallel
    sizes = {"tp": parallel.tp, "pp": parallel.pp, "dp": parallel.dp}
    factors = [name for name, size in sizes.items() if size > 1]
    where = ("parallel", *factors[:1]) if factors else ("device",)
    report.error(
        "D301",
        f"a worker of `{component.name}` needs {count_gpus(parallel.gpus)} on one node, "
        + (f"the largest node has {largest.gpus}" if largest.gpus else "no node has any"),
        ((*component.at, *where), count_gpus(parallel.gpus)),
        notes=[
            f"tp x pp x dp = {parallel.tp} x {parallel.pp} x {parallel.dp} = {parallel.gpus}",
            f"node `{largest.name}` has {count_gpus(largest.gpus)}",
        ],
        remedies=_smaller(component, factors, largest.gpus),
    )


def _smaller(component: Component, factors: Sequence[str], gpus: int) -> list[Remedy]:
    """With one dimension, its largest divisor that fits; without GPUs, the CPU where the engine runs there."""
    assert component.worker is not None
    if gpus == 0:
        on_cpu = "cpu" in dialect(component.worker.engine).capabilities.devices
        return [Remedy((Put((*component.at, "device"), "cpu"),))] if on_cpu else []
    if len(factors) != 1:
        return []
    size = component.worker.parallel.gpus
    fitting = max(d for d in range(1, gpus + 1) if size % d == 0)
    return [Remedy((Put((*component.at, "parallel", factors[0]), fitting),))]


def report_pinned(components: Sequence[Component], largest: Node, report: Reporter) -> None:
    """D303: components that must share a node are too large for any, together."""
    names = " and ".join(f"`{component.name}`" for component in components)
    report.error(
        "D303",
        f"{names} must share a node and need {_gpus(components)} GPUs, the largest node has {largest.gpus}",
        (("placement", "same_node"), ""),
        notes=[_sum(components), f"node `{largest.name}` has {count_gpus(largest.gpus)}"],
        remedies=[Remedy((Put(("placement", "same_node"), []),), "let them be on different nodes: `same_node: []`")],
    )


def report_overflow(
    components: Sequence[Component], culprit: Component, fitting: int | None, cluster: Cluster, report: Reporter
) -> None:
    """D302: each worker fits a node, all of them do not fit the cluster; `fitting` replicas of `culprit` would."""
    needed, there = _gpus(components), sum(node.gpus for node in cluster.nodes)
    message = f"the workers need {needed} GPUs, the cluster has {there}"
    if needed <= there:
        message = f"the workers need {needed} of {there} GPUs, but do not fit whole on the nodes"
    nodes = ", ".join(f"`{node.name}` {node.gpus}" for node in cluster.nodes[:NODES_SHOWN])
    more = f" and {len(cluster.nodes) - NODES_SHOWN} more nodes" if len(cluster.nodes) > NODES_SHOWN else ""
    path = (*culprit.at, "replicas")
    report.error(
        "D302",
        message,
        (path, f"{culprit.replicas} workers of {count_gpus(_gpus([culprit]) // culprit.replicas)}"),
        notes=[_sum(components), f"GPUs of the cluster: {nodes}{more}"],
        remedies=[Remedy((Put(path, fitting),))] if fitting else [],
    )


def _gpus(components: Sequence[Component]) -> int:
    return sum(c.replicas * gpus_of(c) for c in components)


def gpus_of(component: Component) -> int:
    """GPUs of one replica."""
    return component.worker.allotted if component.worker is not None else 0


def _sum(components: Sequence[Component]) -> str:
    """`prefill` 2 x 4 + `decode` 1 x 8 = 16 GPUs."""
    terms = " + ".join(f"`{c.name}` {c.replicas} x {gpus_of(c)}" for c in components if gpus_of(c))
    return f"{terms} = {count_gpus(_gpus(components))}"


def count_gpus(number: int) -> str:
    """`1 GPU`, `8 GPUs`."""
    return f"{number} GPU" if number == 1 else f"{number} GPUs"
