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


@pytest.mark.parametrize("text", ["a: 1", "[1, 2]", "just text", "", "kind: Deployment"])
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
