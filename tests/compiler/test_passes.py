"""Rules where they are easily wrong: what they must let through, what they must merge, what they must say."""

from __future__ import annotations

from typing import Any

import pytest
from proving import LAPTOP, Verdict, cards, prove

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.pipeline import GRAPH_PASSES, PLAN_PASSES, build_plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
TCP = {"from": "prefill", "to": "decode", "transport": "tcp"}
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
H100 = (
    "name: h100\nnodes: [{name: gpu, count: 2, cpus: 64, memory: 1 TiB, gpus: {count: 8, kind: H100, memory: 80 GiB}}]"
)


def spec(
    workers: dict[str, dict[str, Any]], edges: list[Any] | None = None, model: str = SMOLLM2, **more: Any
) -> dict[str, Any]:
    chain = " -> ".join(["frontend", "router", *workers])
    front = {"frontend": {"role": "frontend"}, "router": {"role": "router"}}
    data = {"dynamoc": 1, "name": "demo", "model": {"ref": model}, "components": front | workers}
    return data | {"edges": [chain] if edges is None else edges} | more


def verdict(data: dict[str, Any], cluster: str | None = None) -> Verdict:
    return prove(to_yaml(data), cluster)


def codes(data: dict[str, Any], cluster: str | None = None) -> list[str]:
    return verdict(data, cluster).codes


def pair(prefill: dict[str, Any], decode: dict[str, Any], **more: Any) -> dict[str, Any]:
    return spec({"prefill": {"role": "prefill"} | prefill, "decode": {"role": "decode"} | decode}, **more)


def gpu_worker(**parallel: int) -> dict[str, Any]:
    return {"engine": "mocker", "device": "cuda", "context_length": 4096, "parallel": parallel}


def test_passes_are_listed_once() -> None:
    names = [one.__name__ for one in (*GRAPH_PASSES, *PLAN_PASSES)]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pair({}, {}, edges=["frontend -> router -> prefill", "router -> prefill -> decode"]), id="shared"),
        pytest.param(pair({}, {}, edges=["frontend -> router -> prefill -> decode", "router -> decode"]), id="both"),
        pytest.param(
            pair({}, {}, edges=["frontend -> router -> prefill -> decode", TCP]), id="transport of a chain's edge"
        ),
        pytest.param(
            pair({"context_length": 2048}, {"context_length": 4096}, load={"isl": 2048, "osl": 1024}),
            id="a prefill worker sees only the prompt",
        ),
        pytest.param(spec({"w": {"role": "aggregated", "env": {"OMP_NUM_THREADS": "3"}}}), id="OMP is the user's"),
        pytest.param(spec({"w": {"role": "aggregated", "cpus": 8}}), id="all cores of the laptop"),
    ],
)
def test_let_through(data: dict[str, Any]) -> None:
    assert codes(data) == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(spec({"w": {"role": "aggregated"} | gpu_worker(tp=3, dp=2)}, model=LLAMA), id="tp inside dp"),
        pytest.param(spec({"w": {"role": "aggregated"} | gpu_worker(tp=16)}, model=LLAMA), id="KV heads repeated"),
        pytest.param(pair(gpu_worker(tp=2), gpu_worker(tp=4), model=LLAMA), id="simulated pages do not depend on tp"),
        pytest.param(
            pair(gpu_worker(tp=8), gpu_worker(tp=8), model=LLAMA, edges=["frontend -> router -> prefill", TCP]),
            id="tcp across nodes",
        ),
    ],
)
def test_let_through_on_gpus(data: dict[str, Any]) -> None:
    large = H100.replace("count: 8", "count: 16")

    assert codes(data, large) == []


def test_a_default_pool_holds_a_sequence_of_full_length() -> None:
    """Half a gigabyte would be too small for long contexts of large models, and nobody asked for it."""
    data = spec({"w": {"role": "aggregated", "context_length": 131072, "dtype": "float32"}}, model=LLAMA)
    big = "name: big\nnodes: [{name: cpu, cpus: 64, memory: 4 TiB}]"

    assert codes(data, big) == []


def test_a_pair_disagrees_once_for_every_field() -> None:
    found = verdict(pair({"block_size": 32, "dtype": "float32"}, {"engine": "mocker"}))

    assert {d.message.rpartition(" ")[2] for d in found.errors} == {"`engine`", "`block_size`", "`dtype`"}


def test_errors_of_the_plan_wait_for_those_of_the_graph() -> None:
    data = pair({"block_size": 20, "cpus": 5}, {"block_size": 20, "cpus": 5})

    assert set(codes(data)) == {"D506"}
    assert codes(pair({"cpus": 5}, {"cpus": 5})) == ["D304"]


def test_a_waived_rule_warns_and_the_plan_goes_on() -> None:
    allow = [{"code": "D304", "reason": "the workers take turns"}]
    found = verdict(pair({"cpus": 5}, {"cpus": 5}, allow=allow))

    assert found.codes == ["D304"]
    assert not found.errors
    assert "the workers take turns" in found.rendered


def test_a_waiver_that_was_not_needed_is_mentioned() -> None:
    found = verdict(pair({}, {}, allow=[{"code": "D304", "reason": "just in case"}]))

    assert found.codes == ["D207"]
    assert not found.errors


@pytest.mark.parametrize("code", ["D301", "D302", "D303", "D310", "D312", "D401", "D510"])
def test_a_rule_without_which_there_is_no_plan_cannot_be_waived(code: str) -> None:
    assert codes(pair({}, {}, allow=[{"code": code, "reason": "please"}])) == ["D206"]


def test_kv_edges_that_share_a_worker_share_the_transport() -> None:
    workers = {"a": {"role": "prefill"}, "b": {"role": "prefill"}, "d": {"role": "decode"}}
    edges = ["frontend -> router -> a -> d", "router -> b", {"from": "b", "to": "d", "transport": "tcp"}]
    site = read_cluster(read_source(LAPTOP, "cluster.yaml"))
    plan, _ = build_plan(read_source(to_yaml(spec(workers, edges)), "spec.yaml"), site, cards())

    assert plan.transports == {("a", "d"): "tcp", ("b", "d"): "tcp"}
    assert {process.transport for process in plan.processes if process.component.worker} == {"tcp"}
