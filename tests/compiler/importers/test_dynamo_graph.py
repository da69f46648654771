from __future__ import annotations

from pathlib import Path

import pytest

from dynamoc.compiler.importers.command_line import read_command
from dynamoc.compiler.importers.recipe import Imported, RecipeError
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.scalars import plain

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> Imported:
    (found,) = read_recipe((SAMPLES / name).read_text())
    return found


def test_services_become_components() -> None:
    assert plain(sample("dgd_v1alpha1.yaml").spec) == {
        "dynamoc": 1,
        "name": "demo-disagg",
        "model": {"ref": "example/Large-Model"},
        "defaults": {"engine": "trtllm", "env": {"HF_HOME": "/opt/models"}},
        "components": {
            "frontend": {
                "role": "frontend",
                "replicas": 2,
                "image": "registry.example/runtime:1.2",
                "env": {"HF_HOME": "/opt/models"},
            },
            "router": {"role": "router", "policy": "kv"},
            "prefillworker": {
                "role": "prefill",
                "entrypoint": "dynamo",
                "image": "registry.example/runtime:1.2",
                "replicas": 2,
                "gpus": 2,
                "args": {
                    "model-path": "example/Large-Model",
                    "tensor-parallel-size": 2,
                    "disaggregation-mode": "prefill",
                },
                "env": {"MODEL": "example/Large-Model"},
            },
            "decodeworker": {
                "role": "decode",
                "entrypoint": "dynamo",
                "image": "registry.example/runtime:1.2",
                "replicas": 1,
                "gpus": 8,
                "nodes_per_worker": 2,
                "args": {
                    "model-path": "example/Large-Model",
                    "disaggregation-mode": "decode",
                    "tensor_parallel_size": 4,
                    "kv_cache_config": {"free_gpu_memory_fraction": 0.8},
                    "cuda_graph_config": None,
                },
            },
        },
        "edges": ["frontend -> router -> prefillworker -> decodeworker"],
    }


def test_what_only_kubernetes_knows_is_named() -> None:
    unmapped = sample("dgd_v1alpha1.yaml").unmapped

    assert "spec.pvcs[0].name" in unmapped
    assert "spec.services.PrefillWorker.envFromSecret" in unmapped
    assert "spec.services.PrefillWorker.sharedMemory.size" in unmapped
    assert any(name.startswith("spec.services.PrefillWorker.extraPodSpec.mainContainer.env[1]") for name in unmapped)


def test_components_become_components() -> None:
    found = sample("dgd_v1beta1.yaml")

    assert plain(found.spec)["components"]["vllmworker"] == {
        "role": "aggregated",
        "entrypoint": "dynamo",
        "image": "registry.example/vllm:0.24",
        "replicas": 3,
        "gpus": 4,
        "args": {
            "model": "example/Large-Model",
            "tensor-parallel-size": 4,
            "enforce-eager": True,
            "max-model-len": 8192,
        },
        "env": {"LOG": "info"},
    }
    assert found.spec["edges"] == ["frontend -> router -> vllmworker"]
    assert found.cluster["nodes"][0]["count"] == 2, "three workers of four GPUs on nodes of eight"


def test_the_kind_of_gpu_is_read_from_the_node_selector() -> None:
    assert sample("dgd_v1alpha1.yaml").cluster["nodes"][0]["gpus"]["kind"] == "H200"


def test_a_planner_stays_unmapped_as_a_whole() -> None:
    text = (SAMPLES / "dgd_v1beta1.yaml").read_text() + "    - {name: Planner, type: planner, replicas: 1}\n"
    (found,) = read_recipe(text)

    assert {"spec.components[2].name", "spec.components[2].type", "spec.components[2].replicas"} <= set(found.unmapped)


def test_a_graph_without_workers_is_none() -> None:
    text = (
        "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\nspec: {services: {F: {componentType: frontend}}}"
    )
    with pytest.raises(RecipeError, match="no workers"):
        list(read_recipe(text))


def test_commands_in_every_shape() -> None:
    shell = read_command(
        ["/bin/sh", "-c", 'exec python3 -m dynamo.vllm \\\n --model "$M" --enforce-eager'], {"M": "a/b"}
    )
    served = read_command(["vllm", "serve", "a/b", "--tp=2", "--cudagraph-sizes", "1", "2"], {})
    json = read_command(["python3", "-m", "dynamo.vllm", "--kv-transfer-config", '{"kv_connector": "Nixl"}'], {})

    assert (shell.engine, shell.entrypoint, plain(dict(shell.args)), shell.rest) == (
        "vllm", "dynamo", {"model": "a/b", "enforce-eager": True}, (),
    )  # fmt: skip
    assert (served.entrypoint, plain(dict(served.args))) == (
        "native",
        {"model": "a/b", "tp": 2, "cudagraph-sizes": [1, 2]},
    )
    assert json.args == {"kv-transfer-config": '{"kv_connector": "Nixl"}'}


def test_words_around_an_engine_are_kept_for_the_note() -> None:
    found = read_command(["sh", "-c", "ulimit -n 9 && python3 -m dynamo.sglang --tp 2; echo done"], {})

    assert plain(dict(found.args)) == {"tp": 2}
    assert found.rest == ("ulimit", "-n", "9", "&&", ";", "echo", "done")
