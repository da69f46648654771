from __future__ import annotations

from pathlib import Path

import pytest

from dynamoc.compiler.importers.recipe import Imported, RecipeError, name_of
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.scalars import plain

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> Imported:
    (found,) = read_recipe((SAMPLES / name).read_text())
    return found


def test_a_disaggregated_tensorrt_llm_configuration() -> None:
    found = sample("trtllm.yaml")

    assert plain(found.spec) == {
        "dynamoc": 1,
        "name": "large-model-trtllm",
        "model": {"ref": "example/Large-Model"},
        "defaults": {"engine": "trtllm", "args": {"backend": "pytorch", "disable_overlap_scheduler": True}},
        "components": {
            "frontend": {"role": "frontend", "port": 8000},
            "router": {"role": "router", "policy": "kv"},
            "prefill": {
                "role": "prefill",
                "replicas": 2,
                "args": {
                    "tensor_parallel_size": 2,
                    "pipeline_parallel_size": 1,
                    "kv_cache_config": {"free_gpu_memory_fraction": 0.2, "enable_block_reuse": False},
                    "cache_transceiver_config": {"backend": "UCX"},
                },
            },
            "decode": {
                "role": "decode",
                "replicas": 1,
                "args": {"tensor_parallel_size": 4, "cuda_graph_config": None},
            },
        },
        "edges": ["frontend -> router -> prefill -> decode"],
    }
    assert found.cluster["nodes"][0]["count"] == 1
    assert set(found.unmapped) == {"generation_servers.router.type", "generation_servers.router.extra"}


def test_an_aiconfigurator_configuration() -> None:
    found = sample("aiconfigurator.yaml")

    assert plain(found.spec) == {
        "dynamoc": 1,
        "name": "large",
        "model": {"ref": "example/Large-Model", "served_name": "large"},
        "defaults": {
            "engine": "trtllm",
            "image": "registry.example/tensorrtllm-runtime:0.8.0",
            "entrypoint": "dynamo",
        },
        "components": {
            "frontend": {"role": "frontend", "port": 8000},
            "router": {"role": "router", "policy": "kv"},
            "prefill": {
                "role": "prefill",
                "replicas": 2,
                "gpus": 4,
                "parallel": {"tp": 4, "pp": 1, "dp": 1},
                "max_sequences": 2,
                "max_batched_tokens": 8192,
            },
            "decode": {
                "role": "decode",
                "replicas": 1,
                "parallel": {"tp": 8, "ep": 8},
                "max_sequences": 64,
                "context_length": 9216,
            },
        },
        "edges": ["frontend -> router -> prefill -> decode"],
        "load": {"isl": 8192, "osl": 1024, "concurrency": 64},
    }
    assert found.cluster["nodes"][0] | {"cpus": 0, "memory": ""} == {
        "name": "node",
        "count": 4,
        "cpus": 0,
        "memory": "",
        "gpus": {"count": 4, "kind": "GB200"},
    }
    assert "Workers.decode.kv_cache_dtype" in found.unmapped


@pytest.mark.parametrize("text", ["a: 1", "[1, 2]", "just text", "kind: Deployment"])
def test_what_is_no_recipe_is_said(text: str) -> None:
    with pytest.raises(RecipeError, match="none of"):
        read_recipe(text)


def test_names_stay_distinct_within_their_length() -> None:
    long = "A_Very-Long.Name" * 4

    assert name_of("GB200 FP4 / 1k1k") == "gb200-fp4-1k1k"
    assert name_of("8k1k") == "x-8k1k"
    assert name_of("...") == "recipe"
    assert len(name_of(long)) <= 40
    assert name_of(long) != name_of(f"{long}2")


def test_a_benchmark_of_tensorrt_llm() -> None:
    (found,) = read_recipe((SAMPLES / "trtllm_benchmark.yaml").read_text())
    components = found.spec["components"]

    assert found.spec["model"] == {"ref": "DeepSeek-R1-0528-FP4", "path": "/models/DeepSeek-R1-0528-FP4"}
    assert plain(found.spec["load"]) == {"isl": 8192, "osl": 1024, "concurrency": [64, 128]}
    assert (components["prefill"]["replicas"], components["decode"]["env"]) == (2, {"A": "b"})
    assert found.spec["defaults"]["image"] == "nvcr.io/nvidia/tensorrt-llm/release:1.2.0"
    assert found.cluster["nodes"][0]["count"] == 4
    assert found.cluster["nodes"][0]["gpus"] == {"count": 4, "kind": "GB200"}


def test_servers_with_the_loads_of_their_clients() -> None:
    text = """
hardware: {gpus_per_node: 8}
server_configs:
- name: small
  model_name: tiny
  tensor_parallel_size: 2
  client_configs:
  - {name: few, concurrency: 4, isl: 100, osl: 10}
  - {name: many, concurrency: 64, isl: 100, osl: 10}
- {name: bare, tensor_parallel_size: 16}
"""
    found = list(read_recipe(text))

    assert [point.point for point in found] == ["small, few", "small, many", "bare"]
    assert [plain(point.spec.get("load")) for point in found][1:] == [{"isl": 100, "osl": 10, "concurrency": 64}, None]
    assert [point.cluster["nodes"][0]["count"] for point in found] == [1, 1, 2]
    assert plain(found[0].spec["components"]["worker"]["args"]) == {"tensor_parallel_size": 2}


def test_no_context_servers_leave_one_pool_for_both_phases() -> None:
    text = "model: a/b\ncontext_servers: {num_instances: 0}\ngeneration_servers: {num_instances: 2}\n"
    (found,) = read_recipe(text + "disagg_cluster: {cluster_name: c}\n")

    assert found.spec["edges"] == ["frontend -> router -> worker"]
    assert found.spec["components"]["worker"] == {"role": "aggregated", "replicas": 2}
    assert "disagg_cluster.cluster_name" in found.unmapped


def test_an_inferencex_matrix() -> None:
    (found,) = read_recipe((SAMPLES / "inferencex.yaml").read_text())
    components = found.spec["components"]

    assert found.point == "r1-fp8-gb200-dynamo-sglang, seq-len-configs[0].search-space[0]"
    assert plain(components["decode"]["parallel"]) == {"tp": 16, "ep": 16, "dp": 16}
    assert (components["prefill"]["replicas"], components["prefill"]["gpus"]) == (2, 8)
    assert plain(found.spec["load"]) == {"isl": 8192, "osl": 1024, "concurrency": [128, 256]}
    assert found.cluster["nodes"][0]["count"] == 8


def test_a_matrix_has_many_points_and_says_last_what_it_cannot_read() -> None:
    text = """
one: {framework: vllm, runner: h100, model: a/b, scenarios: {chat: [{isl: 8, osl: 4, search-space:
  [{tp: 8, ep: 8, dp-attn: true, conc-start: 4, conc-end: 16}, {tp: 2, conc-list: [1]}]}]}}
two: {framework: homegrown, runner: h100, seq-len-configs: []}
"""
    points = read_recipe(text)
    wide, narrow = next(points), next(points)

    assert plain(wide.spec["components"]["worker"]) == {
        "role": "aggregated",
        "replicas": 1,
        "parallel": {"tp": 1, "dp": 8},
        "gpus": 8,
        "args": {"enable-expert-parallel": True},
    }
    assert plain(wide.spec["load"]["concurrency"]) == [4, 8, 16]
    assert plain(narrow.spec["components"]["worker"]["parallel"]) == {"tp": 2}
    with pytest.raises(RecipeError, match=r"`two` \(homegrown\)"):
        next(points)


@pytest.mark.parametrize(
    ("engine", "sizes", "parallel", "gpus"),
    [
        ("vllm", (1, 1, 8, 1), {"tp": 8, "dp": 1, "ep": 1}, None),
        ("vllm", (1, 8, 1, 8), {"tp": 1, "dp": 8, "ep": 8}, None),
        ("sglang", (2, 4, 1, 8), {"tp": 8, "dp": 4, "ep": 8}, 8),
        ("trtllm", (1, 8, 1, 8), {"tp": 8, "dp": 8, "ep": 8}, 8),
        ("trtllm", (4, 1, 1, 1), {"tp": 4, "dp": 1, "ep": 1}, None),
    ],
)
def test_ranks_of_experts_are_all_ranks(
    engine: str, sizes: tuple[int, ...], parallel: dict[str, int], gpus: int | None
) -> None:
    tp, dp, moe_tp, moe_ep = sizes
    (found,) = read_recipe(
        f"backend: {engine}\nServiceConfig: {{model_path: a/b}}\nparams: {{agg: {{tensor_parallel_size: {tp}, "
        f"data_parallel_size: {dp}, moe_tensor_parallel_size: {moe_tp}, moe_expert_parallel_size: {moe_ep}}}}}\n"
    )
    worker = found.spec["components"]["worker"]

    assert plain(worker["parallel"]) == parallel
    assert worker.get("gpus") == gpus
