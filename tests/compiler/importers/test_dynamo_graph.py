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


GRAPH = """
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata: {name: g}
spec:
  services:
    Door: {componentType: main, extraPodSpec: {mainContainer: {command: [python3, -m, dynamo.frontend]}}}
"""


def test_an_unknown_type_is_what_it_starts() -> None:
    worker = "    W: {componentType: llm, extraPodSpec: {mainContainer: {command: [vllm, serve, a/b]}}}\n"
    (found,) = read_recipe(GRAPH + worker)

    assert {name: c["role"] for name, c in found.spec["components"].items()} == {
        "door": "frontend",
        "router": "router",
        "w": "aggregated",
    }
    assert [note for note in found.notes if "which we do not know" in note]


def test_the_container_that_starts_an_engine_is_the_worker() -> None:
    pod = """
    W:
      componentType: worker
      extraPodSpec:
        mainContainer: {image: side, command: [relay], args: [--to, 127.0.0.1]}
        containers:
        - {image: engine, command: [python3, -m, sglang.launch_server], args: [--tp, "2"],
           resources: {limits: {nvidia.com/gpu: "2"}}}
"""
    (found,) = read_recipe(GRAPH + pod)
    worker = found.spec["components"]["w"]

    assert (worker["image"], worker["gpus"], plain(worker["args"])) == ("engine", 2, {"tp": 2})
    assert "spec.services.W.extraPodSpec.mainContainer.image" in found.unmapped


def test_files_of_one_name_are_told_apart_by_what_a_pod_mounts() -> None:
    def config(name: str, size: int) -> str:
        return f"kind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{e.yaml: 'tensor_parallel_size: {size}'}}\n---"

    def pod(role: str) -> str:
        return f"""
    {role}:
      subComponentType: {role}
      extraPodSpec:
        mainContainer: {{command: [python3, -m, dynamo.trtllm], args: [--extra-engine-args, /c/e.yaml]}}
        volumes: [{{name: v, configMap: {{name: of-{role}}}}}]
"""

    text = config("of-prefill", 2) + "\n" + config("of-decode", 4) + GRAPH + pod("prefill") + pod("decode")
    (found,) = read_recipe(text)
    components = found.spec["components"]

    assert plain(components["prefill"]["args"]) == {"tensor_parallel_size": 2}
    assert plain(components["decode"]["args"]) == {"tensor_parallel_size": 4}


def test_options_that_a_script_writes_are_read() -> None:
    pod = """
    W:
      componentType: worker
      extraPodSpec:
        mainContainer:
          command: [/bin/bash, -c]
          args:
          - |
            cat > /tmp/e.yaml <<'EOF'
            tensor_parallel_size: 2
            EOF
            args=(
              --model-path "a/b"
              --extra-engine-args /tmp/e.yaml
            )
            exec python3 -m dynamo.trtllm "${args[@]}"
"""
    (found,) = read_recipe(GRAPH + pod)

    assert plain(found.spec["components"]["w"]["args"]) == {"model-path": "a/b", "tensor_parallel_size": 2}


def test_an_engine_of_ours_has_no_image_and_no_flags() -> None:
    pod = """
    W:
      componentType: worker
      extraPodSpec: {mainContainer: {image: i, command: [python3, -m, dynamo.mocker], args: [--model-path, a/b]}}
"""
    (found,) = read_recipe(GRAPH + pod)

    assert found.spec["components"]["w"] == {"role": "aggregated", "replicas": 1}
    assert found.spec["model"] == {"ref": "a/b"}


def test_a_patch_of_a_graph_is_no_graph() -> None:
    with pytest.raises(RecipeError, match="patch of another graph"):
        list(read_recipe(GRAPH + "    W: {componentType: worker, envs: []}\n"))
