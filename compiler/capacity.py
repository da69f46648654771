"""What is said when workers do not fit: who needs how many GPUs, what there is, and what would fit."""

from __future__ import annotations

from collections.abc import Sequence

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.diagnostics import Change, Drop, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Graph
from dynamoc.compiler.units import spell_count

NODES_SHOWN = 8


def report_large(component: Component, largest: Node, report: Reporter) -> None:
    """D301: one worker is larger than any node."""
    assert component.worker is not None
    options, gpus = component.worker, component.worker.allotted
    parallel = options.parallel
    factors = [name for name, size in parallel.factors.items() if size > 1]
    place = component.where(factors[0]) if factors else (*component.at, "device")
    report.error(
        "D301",
        f"a worker of `{component.name}` needs {spell_count(gpus, 'GPU')} on one node, "
        + (f"the largest node has {largest.gpus}" if largest.gpus else "no node has any"),
        ((*component.at, "gpus") if options.gpus is not None else place, spell_count(gpus, "GPU")),
        notes=[
            parallel.arithmetic if options.gpus is None else f"{spell_count(gpus, 'GPU')} are allotted to one worker",
            f"node `{largest.name}` has {spell_count(largest.gpus, 'GPU')}",
        ],
        remedies=_smaller(component, factors, largest.gpus),
    )


def _smaller(component: Component, factors: Sequence[str], gpus: int) -> list[Remedy]:
    """With one dimension, its largest divisor that fits; without GPUs, the CPU where the engine runs there."""
    assert component.worker is not None
    if gpus == 0:
        on_cpu = "cpu" in dialect(component.worker.engine).capabilities.devices
        return [Remedy((Put((*component.at, "device"), "cpu"),))] if on_cpu else []
    if len(factors) != 1 or component.worker.gpus is not None or component.worker.reading.facts:
        return []
    size = component.worker.parallel.gpus
    fitting = max(d for d in range(1, gpus + 1) if size % d == 0)
    return [Remedy((Put((*component.at, "parallel", factors[0]), fitting),))]


def report_pinned(components: Sequence[Component], largest: Node, report: Reporter) -> None:
    """D303: components that must share a node are too large for any, together."""
    names = " and ".join(f"`{component.name}`" for component in components)
    report.error(
        "D303",
        f"{names} must share a node and need {spell_count(_gpus(components), 'GPU')}, "
        f"the largest node has {largest.gpus}",
        (("placement", "same_node"), ""),
        notes=[_sum(components), f"node `{largest.name}` has {spell_count(largest.gpus, 'GPU')}"],
        remedies=[Remedy((Put(("placement", "same_node"), []),), "let them be on different nodes: `same_node: []`")],
    )


def report_overflow(
    components: Sequence[Component], culprit: Component, fitting: int | None, cluster: Cluster, report: Reporter
) -> None:
    """D302: each worker fits a node, all of them do not fit the cluster; `fitting` replicas of `culprit` would."""
    needed, there = _gpus(components), sum(node.gpus for node in cluster.nodes)
    message = f"the workers need {spell_count(needed, 'GPU')}, the cluster has {there}"
    if needed <= there:
        message = f"the workers need {needed} of {there} GPUs, but do not fit whole on the nodes"
    nodes = ", ".join(f"`{node.name}` {node.gpus}" for node in cluster.nodes[:NODES_SHOWN])
    more = (
        f" and {spell_count(len(cluster.nodes) - NODES_SHOWN, 'more node')}" if len(cluster.nodes) > NODES_SHOWN else ""
    )
    path = (*culprit.at, "replicas")
    report.error(
        "D302",
        message,
        (path, f"{culprit.replicas} workers of {spell_count(_gpus([culprit]) // culprit.replicas, 'GPU')}"),
        notes=[_sum(components), f"GPUs of the cluster: {nodes}{more}"],
        remedies=[Remedy((Put(path, fitting),))] if fitting else [],
    )


def report_thin(component: Component, largest: Node, report: Reporter) -> None:
    """D313: so few nodes do not hold a worker."""
    assert component.worker is not None
    wanted, nodes = component.worker.allotted, component.worker.nodes_per_worker or 1
    path = (*component.at, "nodes_per_worker")
    fitting = -(-wanted // largest.gpus) if largest.gpus else 0
    report.error(
        "D313",
        f"a worker of `{component.name}` has {spell_count(wanted, 'GPU')}, "
        f"more than {spell_count(nodes, 'node')} of {largest.gpus}",
        (path, f"{nodes} x {largest.gpus} = {nodes * largest.gpus}"),
        notes=[f"{wanted} / {nodes} > {largest.gpus} GPUs of node `{largest.name}`"],
        remedies=[Remedy((Put(path, fitting),))] if fitting else [],
    )


def report_wide(component: Component, cluster: Cluster, report: Reporter) -> None:
    """D314: one worker over more nodes than there are."""
    assert component.worker is not None
    path, nodes = (*component.at, "nodes_per_worker"), component.worker.nodes_per_worker
    report.error(
        "D314",
        f"a worker of `{component.name}` spans {nodes} nodes, the cluster has {len(cluster.nodes)}",
        (path, ""),
        remedies=[Remedy((Drop(path),))],
    )


def report_sparse(component: Component, report: Reporter) -> None:
    """D313: some of so many nodes would have no GPU of the worker."""
    assert component.worker is not None
    wanted, nodes = component.worker.allotted, component.worker.nodes_per_worker
    path = (*component.at, "nodes_per_worker")
    report.error(
        "D313",
        f"a worker of `{component.name}` has {spell_count(wanted, 'GPU')}, fewer than its {nodes} nodes",
        (path, f"at most {wanted}"),
        notes=["each node of a worker has at least one of its ranks"],
        remedies=[Remedy((Put(path, wanted),))],
    )


def report_own_nodes(component: Component, nodes: Sequence[Node], spare: int, report: Reporter) -> None:
    """D313: the nodes that a component has for itself do not hold its workers; `spare` others are free."""
    needed, there, several = _gpus([component]), sum(node.gpus for node in nodes), len(nodes) > 1
    largest = max(node.gpus for node in nodes)
    report.error(
        "D313",
        f"`{component.name}` needs {spell_count(needed, 'GPU')}, its {spell_count(len(nodes), 'node')} of {largest} "
        + (f"{'hold' if several else 'holds'} {there}" if needed > there else "cannot hold its workers whole"),
        ((*component.at, "nodes"), " + ".join(str(node.gpus) for node in nodes[:NODES_SHOWN])),
        notes=[_sum([component])],
        remedies=_more_nodes(component, len(nodes), largest, spare),
    )


def _more_nodes(component: Component, nodes: int, node_gpus: int, spare: int) -> list[Remedy]:
    """As many nodes as hold all workers whole; where there are not so many, fewer workers."""
    gpus = gpus_of(component)
    if not node_gpus or not gpus:
        return []
    span, beside = -(-gpus // node_gpus), max(1, node_gpus // gpus)
    fitting = component.replicas * span if span > 1 else -(-component.replicas // beside)
    if fitting - nodes <= spare:
        return [Remedy((Put((*component.at, "nodes"), fitting),))]
    fewer = nodes // span if span > 1 else nodes * beside
    return [Remedy((Put((*component.at, "replicas"), fewer),))] if fewer else []


def report_nodes(graph: Graph, cluster: Cluster, report: Reporter) -> None:
    """D314: components and services want more nodes for themselves than there are."""
    owners = [(c, c.worker.nodes) for c in graph.components if c.worker is not None and c.worker.nodes]
    terms = [f"`{c.name}` {nodes}" for c, nodes in owners]
    terms += [f"reserved {graph.reserve_nodes}"] if graph.reserve_nodes else []
    shared = [c.name for c in graph.components if c.worker is not None and not c.worker.nodes]
    terms += [f"others at least 1 (`{shared[0]}`)"] if shared else []
    wanted = sum(nodes for _, nodes in owners) + graph.reserve_nodes + bool(shared)
    path = (*owners[0][0].at, "nodes") if owners else ("placement", "reserve_nodes")
    report.error(
        "D314",
        f"the components want {spell_count(wanted, 'node')}, the cluster has {len(cluster.nodes)}",
        (path, ""),
        notes=[f"{' + '.join(terms)} = {wanted}"],
        remedies=_share(graph, cluster),
    )


def _share(graph: Graph, cluster: Cluster) -> list[Remedy]:
    """Let everything share all nodes, where their GPUs are enough."""
    wishes: list[Change] = [
        Drop((*c.at, "nodes")) for c in graph.components if c.worker is not None and "nodes" in c.worker.written
    ]
    wishes += [Drop(("placement", "reserve_nodes"))] if graph.reserve_nodes else []
    enough = _gpus(graph.components) <= sum(node.gpus for node in cluster.nodes)
    return [Remedy(tuple(wishes))] if enough else []


def _gpus(components: Sequence[Component]) -> int:
    return sum(c.replicas * gpus_of(c) for c in components)


def gpus_of(component: Component) -> int:
    """GPUs of one replica."""
    return component.worker.allotted if component.worker is not None else 0


def _sum(components: Sequence[Component]) -> str:
    """`prefill` 2 x 4 + `decode` 1 x 8 = 16 GPUs."""
    terms = " + ".join(f"`{c.name}` {c.replicas} x {gpus_of(c)}" for c in components if gpus_of(c))
    return f"{terms} = {spell_count(_gpus(components), 'GPU')}"
