"""From the load of a spec to the points that are made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proving import cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

CLUSTER = "name: one\nnodes: [{name: node, count: 2, cpus: 32, memory: 256 GiB, gpus: {count: 8, kind: H200}}]\n"
SPEC = """\
dynamoc: 1
name: loaded
model: {{ref: HuggingFaceTB/SmolLM2-135M-Instruct}}
defaults: {{engine: mocker, device: cuda, context_length: 2048, kv_blocks: 4096}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  prefill: {{role: prefill, replicas: 2, parallel: {{tp: 3}}}}
  decode: {{role: decode, parallel: {{tp: 3}}}}
edges: [frontend -> router -> prefill -> decode]
load: {load}
{more}"""


def load_of(load: str, more: str = "", target: str = "local") -> dict[str, Any] | None:
    source = read_source(SPEC.format(load=load, more=more), "spec.yaml")
    artifacts = compile_spec(source, read_cluster(read_source(CLUSTER, "cluster.yaml")), load_target(target), cards())
    return next((json.loads(a.text) for a in artifacts if str(a.path) == "load.json"), None)


def points_of(load: str, more: str = "") -> list[dict[str, Any]]:
    found = load_of(load, more)
    assert found is not None
    return list(found["points"])


def test_a_load_that_is_only_expected_is_not_made() -> None:
    assert load_of("{isl: 512, osl: 64}") is None


def test_a_point_for_each_number_in_flight() -> None:
    points = points_of("{isl: 512, osl: 64, concurrency: [2, 8], request_rate: inf}")

    assert [(p["id"], p["concurrency"], p["rate"], p["requests"], p["warmup_requests"]) for p in points] == [
        ("c2", 2, None, 20, 2),
        ("c8", 8, None, 80, 8),
    ]


def test_in_flight_for_every_gpu_counts_those_of_workers() -> None:
    assert [p["concurrency"] for p in points_of("{isl: 512, osl: 64, concurrency_per_gpu: 4}")] == [36]
    assert [p["concurrency"] for p in points_of("{isl: 512, osl: 64, concurrency_per_gpu: 4, concurrency: 36}")] == [36]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ("request_rate: 2.5", ("r2.5", None, 2.5, 75)),
        ("request_rate: inf", ("at-once", None, None, 100)),
        ("request_rate: 2.5, concurrency: 16", ("c16-r2.5", 16, 2.5, 160)),
        ("request_rate: 2.5, requests: 7", ("r2.5", None, 2.5, 7)),
    ],
)
def test_arrivals_by_rate(load: str, expected: tuple[Any, ...]) -> None:
    point = points_of(f"{{isl: 512, osl: 64, {load}}}")[0]
    assert (point["id"], point["concurrency"], point["rate"], point["requests"]) == expected


def test_what_is_written_is_what_is_made() -> None:
    point = points_of(
        "{isl: 512, osl: 64, concurrency: 2, requests: 9, warmup_requests: 0, shared_prefix: 0.5, seed: 7}"
    )[0]

    assert point["requests"] == 9
    assert point["warmup_requests"] == 0
    assert point["shared_prefix"] == 0.5
    assert point["seed"] == 7


def test_points_share_the_time_of_the_job() -> None:
    points = points_of("{isl: 512, osl: 64, concurrency: [1, 2, 4, 8]}", "time_limit: 40 min\n")
    assert {p["deadline_s"] for p in points} == {600.0}


def test_gpus_that_a_job_holds_are_counted_by_whole_nodes() -> None:
    local = load_of("{isl: 512, osl: 64, concurrency: 1}")
    slurm = load_of("{isl: 512, osl: 64, concurrency: 1}", target="slurm")
    assert local is not None and local["gpus_allocated"] == 9
    assert slurm is not None and slurm["gpus_allocated"] == 12


@pytest.mark.parametrize(
    "field", ["requests: 4", "warmup_requests: 1", "shared_prefix: 0.5", "seed: 3", "tool: aiperf"]
)
def test_how_a_load_is_made_has_no_effect_where_none_is(field: str) -> None:
    with pytest.raises(CompileError) as error:
        load_of(f"{{isl: 512, osl: 64, {field}}}")

    found = error.value.diagnostics
    assert [(d.code, d.message) for d in found] == [("D116", f"`{field.partition(':')[0]}` has no effect")]


def test_a_site_names_its_aiperf_and_only_loads_by_it_are_told() -> None:
    cluster = CLUSTER + "site: {aiperf: /opt/aiperf/bin/aiperf}\n"
    for tool, program in (("aiperf", "/opt/aiperf/bin/aiperf"), ("builtin", None)):
        source = read_source(
            SPEC.format(load=f"{{isl: 8, osl: 8, concurrency: 1, tool: {tool}}}", more=""), "spec.yaml"
        )
        site = read_cluster(read_source(cluster, "cluster.yaml"))
        artifacts = compile_spec(source, site, load_target("local"), cards())
        load = next(json.loads(a.text) for a in artifacts if str(a.path) == "load.json")
        assert (load["tool"], load.get("program")) == (tool, program)
