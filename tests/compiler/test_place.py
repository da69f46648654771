"""Where workers land, and which ports they get."""

from __future__ import annotations

from typing import Any

import pytest
from proving import cards

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.packing import Resources, pack
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source

GIB = 2**30


def cluster(nodes: int = 1, gpus: int = 0, cpus: int = 16) -> Cluster:
    return Cluster("site", tuple(Node(f"n{index}", cpus, 64 * GIB, gpus) for index in range(nodes)))


def plan(workers: dict[str, dict[str, Any]], site: Cluster, **more: Any) -> Plan:
    chain = " -> ".join(["router", *workers])
    data = {
        "dynamoc": 1,
        "name": "demo",
        "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "defaults": {"engine": "echo", "context_length": 256},
        "components": {"frontend": {"role": "frontend", "port": 8000}, "router": {"role": "router"}} | workers,
        "edges": ["frontend -> router", chain],
    }
    found, _ = build_plan(read_source(to_yaml(data | more), "spec.yaml"), site, cards())
    return found


def pd(prefill: dict[str, Any], decode: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"prefill": {"role": "prefill"} | prefill, "decode": {"role": "decode"} | decode}


def gpus(tp: int, replicas: int = 1) -> dict[str, Any]:
    return {"device": "cuda", "parallel": {"tp": tp}, "replicas": replicas}


def where(found: Plan) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {p.name: (p.node, p.gpus) for p in found.processes if p.component.role.is_worker}


def test_large_workers_come_first_and_small_ones_fill_up() -> None:
    found = plan(pd(gpus(2, 2), gpus(4, 2)), cluster(2, 8))

    assert where(found) == {
        "prefill-0": (1, (0, 1)),
        "prefill-1": (1, (2, 3)),
        "decode-0": (0, (0, 1, 2, 3)),
        "decode-1": (0, (4, 5, 6, 7)),
    }


def test_a_group_shares_a_node() -> None:
    found = plan(pd(gpus(2), gpus(4)), cluster(3, 8), placement={"same_node": ["prefill", "decode"]})

    assert {node for node, _ in where(found).values()} == {0}
    assert found.transports == {("prefill", "decode"): "shm"}


def test_groups_that_share_a_component_are_one() -> None:
    workers = {"a": {"role": "prefill"}, "b": {"role": "prefill"}, "d": {"role": "decode"}}
    edges = ["frontend -> router -> a -> d", "router -> b -> d"]
    found = plan(workers, cluster(3), edges=edges, placement={"same_node": [["a", "d"], ["d", "b"]]})

    assert len({node for node, _ in where(found).values()}) == 1


def test_a_router_can_be_put_beside_its_workers() -> None:
    workers = pd({}, {"replicas": 2})
    found = plan(workers, cluster(3), placement={"same_node": ["router", "prefill", "decode"]})

    assert len({p.node for p in found.processes if p.name != "frontend-0"}) == 1


def test_cpu_workers_are_spread_and_share_the_cores_of_their_node() -> None:
    found = plan(pd({"replicas": 2}, {"replicas": 3}), cluster(2, cpus=12))
    per_node = [[p for p in found.processes if p.component.worker and p.node == node] for node in (0, 1)]

    assert sorted(len(processes) for processes in per_node) == [2, 3]
    assert all(p.env["OMP_NUM_THREADS"] == str(12 // len(processes)) for processes in per_node for p in processes)
    assert all(p.env["OMP_WAIT_POLICY"] == "PASSIVE" for processes in per_node for p in processes)


def test_asked_cores_are_given() -> None:
    found = plan({"w": {"role": "aggregated", "cpus": 5}}, cluster())
    worker = found.processes[-1]

    assert (worker.cpus, worker.env["OMP_NUM_THREADS"], worker.env["CUDA_VISIBLE_DEVICES"]) == (5, "5", "")


def test_explicit_cores_decide_where_spreading_alone_would_fail() -> None:
    """Three workers of 8 cores and two of 4: one node must take 8 + 8, the other 8 + 4 + 4."""
    found = plan(pd({"replicas": 2, "cpus": 4}, {"replicas": 3, "cpus": 8}), cluster(2, cpus=16))
    used = [sum(p.cpus for p in found.processes if p.node == node) for node in (0, 1)]

    assert used == [16, 16]


def test_a_fit_that_best_fit_misses_is_found() -> None:
    """3 + 3 on one node of 7 leaves room for none of the 2s that the other cannot hold."""
    demands = [Resources(gpus=size) for size in (3, 3, 2, 2, 2, 2)]
    chosen = pack(demands, [Resources(gpus=7)] * 2)

    assert chosen is not None
    assert [sum(d.gpus for d, node in zip(demands, chosen, strict=True) if node == n) for n in (0, 1)] == [7, 7]


def test_the_search_is_bounded() -> None:
    """Two hundred workers that nearly fit must not be tried in every way."""
    assert pack([Resources(gpus=3)] * 200, [Resources(gpus=8)] * 90) is None


def test_nodes_without_a_process_are_not_part_of_the_plan() -> None:
    """The small node fits best; the one between it and the frontend's stays out, so that no agent is idle."""
    nodes = tuple(Node(f"n{index}", 16, 64 * GIB, gpus) for index, gpus in enumerate((8, 8, 4)))
    found = plan({"w": {"role": "aggregated"} | gpus(4)}, Cluster("mixed", nodes))

    assert [node.name for node in found.cluster.nodes] == ["n0", "n2"]
    assert where(found) == {"w-0": (1, (0, 1, 2, 3))}
    assert found.nodes == 2


def ports(found: Plan) -> dict[str, dict[str, int]]:
    return {p.name: dict(p.ports) for p in found.processes}


def test_ports_have_their_purposes() -> None:
    found = ports(plan(pd({}, {}), cluster()))

    assert found["frontend-0"] == {"http": 8000}
    assert list(found["router-0"]) == ["plane", "metrics"]
    assert list(found["decode-0"]) == ["plane", "metrics"]


def test_only_who_receives_over_tcp_listens_for_kv() -> None:
    found = ports(plan(pd({"replicas": 5}, {"replicas": 2}), cluster(2)))

    assert list(found["prefill-0"]) == ["plane", "metrics"]
    assert list(found["decode-0"]) == ["plane", "metrics", "kv"]


def test_a_change_elsewhere_moves_no_port() -> None:
    before = ports(plan(pd({}, {}), cluster()))
    after = ports(plan(pd({"replicas": 5}, {"replicas": 2}), cluster(2)))

    assert {name: {purpose: after[name][purpose] for purpose in ports} for name, ports in before.items()} == before


@pytest.mark.parametrize("base", [1024, 21000, 65000])
def test_hundreds_of_processes_find_ports_above_the_base(base: int) -> None:
    site = Cluster("one", (Node("n", 256, 1024 * GIB),), port_base=base)
    found = plan(pd({"replicas": 80}, {"replicas": 80}), site)
    taken = [port for p in found.processes if p.name != "frontend-0" for port in p.ports.values()]

    assert len(set(taken)) == len(taken) == 2 + 160 * 2
    assert min(taken) >= base
    assert max(taken) <= 65535


def test_a_frontend_port_inside_the_range_is_left_to_it() -> None:
    first = plan(pd({}, {}), cluster())
    wanted = first.processes[1].ports["plane"]
    data = {"frontend": {"role": "frontend", "port": wanted}} | pd({}, {})
    found = ports(plan(data, cluster(), edges=["frontend -> router -> prefill -> decode"]))

    assert found["frontend-0"] == {"http": wanted}
    assert wanted not in found["router-0"].values()
