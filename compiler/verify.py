"""What must hold of a graph and of a plan after every pass. A violation is our bug, never the user's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dynamoc.compiler.graph import EdgeKind, Graph
from dynamoc.compiler.plan import Plan, Process


class ViolationError(AssertionError):
    """A pass broke an invariant."""


def verify_graph(graph: Graph) -> None:
    """Names are unique and bound; options are where the role has them."""
    names = [component.name for component in graph.components]
    _unique("component", names)
    for edge in graph.edges:
        _require(edge.source in names and edge.target in names, f"edge {edge} names no component")
        workers = [graph.component(name).role.is_worker for name in (edge.source, edge.target)]
        _require((edge.kind is EdgeKind.KV) == all(workers), f"edge {edge} is of the wrong kind")
        caches = graph.component(edge.target).cache is not None
        _require((edge.kind is EdgeKind.CACHE) == caches, f"edge {edge} is of the wrong kind")
    for component in graph.components:
        _require(component.replicas >= 1, f"{component.name} has no replica")
        _require((component.worker is not None) == component.role.is_worker, f"{component.name} lacks options")


def verify_plan(plan: Plan) -> None:
    """Every process is on a node, no GPU and no port has two owners, ranks number the GPUs of a worker."""
    _unique("process", (process.name for process in plan.processes))
    expected = sum(component.replicas for component in plan.graph.components if component.cache is None)
    leaders = sum(process.part == 0 for process in plan.processes)
    _require(leaders == expected, f"{leaders} leading processes for {expected} replicas")
    for process in plan.processes:
        _verify_process(plan, process)
    _verify_ranks(plan)
    _unique("GPU", ((p.node, gpu) for p in plan.processes for gpu in p.gpus))
    _unique("port", ((p.node, port) for p in plan.processes for port in p.ports.values()))


def _verify_process(plan: Plan, process: Process) -> None:
    _require(0 <= process.node < len(plan.cluster.nodes), f"{process.name} is on no node")
    node = plan.cluster.nodes[process.node]
    _require(all(0 <= gpu < node.gpus for gpu in process.gpus), f"{process.name} has a GPU the node has not")
    _require(len(process.ranks) == len(process.gpus), f"{process.name} has not one rank for each GPU")


def _verify_ranks(plan: Plan) -> None:
    workers: dict[tuple[str, int], list[Process]] = {}
    for process in plan.processes:
        workers.setdefault((process.component.name, process.replica), []).append(process)
    for parts in workers.values():
        options, name = parts[0].component.worker, parts[0].name
        wanted = options.allotted if options is not None else 0
        ranks = [rank for part in parts for rank in part.ranks]
        _require(ranks == list(range(wanted)), f"ranks of {name} do not number its {wanted} GPUs")
        _require([part.part for part in parts] == list(range(len(parts))), f"parts of {name} are not in order")
        _require(len({part.node for part in parts}) == len(parts), f"parts of {name} share a node")


def _unique(what: str, items: Iterable[object]) -> None:
    twice = [item for item, count in Counter(items).items() if count > 1]
    _require(not twice, f"{what} {twice} has more than one owner")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ViolationError(message)
