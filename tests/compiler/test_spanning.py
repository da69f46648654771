"""Workers over several nodes, nodes of a component's own, and nodes that workers share."""

from __future__ import annotations

from typing import Any

import pytest
from proving import cards

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.lower import lower
from dynamoc.compiler.packing import fill
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source
from dynamoc.runtime.manifest import HostRef

TIB = 2**40


def cluster(nodes: int, gpus: int = 4) -> Cluster:
    return Cluster("site", tuple(Node(f"n{index}", 64, TIB, gpus, "GB200", 186 * 2**30) for index in range(nodes)))


def plan(workers: dict[str, Any], site: Cluster, engine: str = "sglang", **more: Any) -> Plan:
    data = {
        "dynamoc": 1,
        "name": "demo",
        "model": {"ref": "nobody/unknown"},
        "defaults": {"engine": engine},
        "components": {"frontend": {"role": "frontend", "port": 8000}, "router": {"role": "router"}} | workers,
        "edges": [" -> ".join(["frontend", "router", *workers])],
    }
    return build_plan(read_source(to_yaml(data | more), "spec.yaml"), site, cards())[0]


def worker(role: str = "aggregated", /, **fields: Any) -> dict[str, Any]:
    args = {f"{name}-size": fields.pop(name) for name in ("tp", "dp", "ep") if name in fields}
    return {"role": role, "args": args | fields.pop("args", {})} | fields


def nodes_of(found: Plan, name: str) -> list[tuple[int, int]]:
    """(node, GPUs) of each process of a component."""
    return [(p.node, len(p.gpus)) for p in found.processes if p.component.name == name]


def test_a_worker_takes_whole_nodes_and_has_a_process_on_each() -> None:
    found = plan({"w": worker(tp=12)}, cluster(4))
    processes = [p for p in found.processes if p.component.name == "w"]

    assert [p.name for p in processes] == ["w-0", "w-0-1", "w-0-2"]
    assert [p.node for p in processes] == [0, 1, 2]
    assert [rank for p in processes for rank in p.ranks] == list(range(12))


def test_each_process_knows_its_rank_and_where_the_first_one_is() -> None:
    found = plan({"a": worker("prefill", tp=4), "b": worker("decode", tp=8)}, cluster(3))
    leader, follower = (p for p in lower(found).processes if p.component == "b")
    assert leader.launch is not None
    assert follower.launch is not None
    words = follower.launch.words
    meeting = words[words.index("--dist-init-addr") + 1]

    assert words[words.index("--node-rank") + 1] == "1"
    assert meeting == HostRef(node=leader.node, port=leader.ports["rendezvous"])
    assert leader.launch.words[leader.launch.words.index("--nnodes") + 1] == "2"
    assert (leader.part, follower.part) == (0, 1)
    assert set(follower.ports) == {"metrics"}


def test_gpus_divide_evenly_over_as_few_nodes_as_hold_them() -> None:
    assert nodes_of(plan({"w": worker(tp=6)}, cluster(2)), "w") == [(0, 3), (1, 3)]


def test_a_worker_may_take_fewer_than_all_gpus_of_more_nodes() -> None:
    found = plan({"w": worker(tp=8, nodes_per_worker=4)}, cluster(4))

    assert nodes_of(found, "w") == [(0, 2), (1, 2), (2, 2), (3, 2)]


def test_workers_share_a_node_where_only_that_fits() -> None:
    """Two workers of 6 on three nodes of 4: equal halves would need four nodes."""
    found = plan({"w": worker(tp=6, replicas=2)}, cluster(3))

    assert nodes_of(found, "w") == [(0, 4), (1, 2), (1, 2), (2, 4)]


def test_two_small_workers_share_a_node() -> None:
    found = plan({"a": worker("prefill", tp=2, replicas=2), "b": worker("decode", tp=4)}, cluster(2))

    assert nodes_of(found, "a") == [(1, 2), (1, 2)]


def test_a_component_has_nodes_of_its_own_and_its_workers_spread_over_them() -> None:
    workers = {"a": worker("prefill", tp=2, replicas=2, nodes=2), "b": worker("decode", tp=4, nodes=1)}
    found = plan(workers, cluster(3))

    assert nodes_of(found, "a") == [(0, 2), (1, 2)]
    assert nodes_of(found, "b") == [(2, 4)]


def test_reserved_nodes_hold_no_worker_and_are_part_of_the_plan() -> None:
    """A dedicated node for services: eleven nodes of workers make twelve."""
    workers = {"a": worker("prefill", tp=4, replicas=7), "b": worker("decode", tp=16)}
    found = plan(workers, cluster(12), placement={"reserve_nodes": 1})

    assert found.nodes == 12
    assert {p.node for p in found.processes if p.gpus} == set(range(1, 12))
    assert {p.node for p in found.processes if not p.gpus} == {0}


def test_without_the_node_for_services_eleven_are_too_few() -> None:
    workers = {"a": worker("prefill", tp=4, replicas=7), "b": worker("decode", tp=16)}
    with pytest.raises(CompileError) as caught:
        plan(workers, cluster(11), placement={"reserve_nodes": 1})

    assert [d.code for d in caught.value.diagnostics] == ["D302"]


def test_nodes_of_own_that_do_not_hold_the_workers() -> None:
    with pytest.raises(CompileError) as caught:
        plan({"w": worker(tp=4, replicas=3, nodes=2)}, cluster(4))

    assert [d.code for d in caught.value.diagnostics] == ["D313"]
    assert caught.value.diagnostics[0].fixes[0].help == "set `w.nodes` to `3`"


def test_a_pinned_worker_does_not_span_nodes() -> None:
    with pytest.raises(CompileError) as caught:
        plan(
            {"a": worker("prefill", tp=2), "b": worker("decode", tp=4)},
            cluster(4),
            placement={"same_node": ["a", "b"]},
        )

    assert [d.code for d in caught.value.diagnostics] == ["D303"]


def test_allotted_gpus_are_held_even_where_they_idle() -> None:
    found = plan({"w": worker(tp=2, gpus=4, replicas=2)}, cluster(2))

    assert nodes_of(found, "w") == [(0, 4), (1, 4)]


def test_filling_is_in_order_and_keeps_single_workers_whole() -> None:
    assert fill([[3, 3], [2]], [4, 4]) == [[(0, 4), (1, 2)], [(1, 2)]]
    assert fill([[3], [3], [2]], [4, 4]) is None


@pytest.mark.parametrize("tp", [17, 10**9])
def test_a_worker_larger_than_the_cluster_is_one_error_and_no_search(tp: int) -> None:
    with pytest.raises(CompileError) as caught:
        plan({"w": worker(tp=tp)}, cluster(4))

    assert [d.code for d in caught.value.diagnostics] == ["D302"]


def test_a_worker_over_more_nodes_than_there_are() -> None:
    with pytest.raises(CompileError) as caught:
        plan({"w": worker(tp=4, nodes_per_worker=10**9)}, cluster(4))

    assert [d.code for d in caught.value.diagnostics] == ["D314"]


@pytest.mark.parametrize("size", [0, -1, -7, "many", True, [4], {"a": 1}, None, 10**9])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_a_size_that_is_none_never_breaks_the_plan(engine: str, size: object) -> None:
    names = {"trtllm": "tensor_parallel_size"}
    workers = {"w": {"role": "aggregated", "args": {names.get(engine, "tensor-parallel-size"): size}}}
    if size == 10**9:
        with pytest.raises(CompileError):
            plan(workers, cluster(2), engine)
    else:
        assert nodes_of(plan(workers, cluster(2), engine), "w") == [(0, 1)]
