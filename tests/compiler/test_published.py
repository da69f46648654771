"""Recipes that were published and run, in our language: they must be proved, and nothing said but what is odd."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from proving import ROOT, cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.lower import lower
from dynamoc.compiler.pipeline import Proof, prove
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.resolved import resolved_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.runtime.manifest import FileRef, HostRef, Manifest

FOLDER = ROOT / "examples/published"
CLUSTERS = {
    "r1-gb200-sglang": "gb200-nvl72",
    "r1-gb200-trtllm": "gb200-nvl72",
    "r1-h200-sglang-mtp": "h200x8x5",
    "r1-b200-sglang": "b200x8x2",
    "llama-70b-h100-vllm": "h100x8",
}
SIZES = {
    "r1-gb200-sglang": (16, 64),
    "r1-gb200-trtllm": (12, 44),
    "r1-h200-sglang-mtp": (5, 40),
    "r1-b200-sglang": (2, 16),
    "llama-70b-h100-vllm": (1, 8),
}
"""Nodes and GPUs as published."""
WARNED = {"r1-b200-sglang": ["D316", "D316"]}
"""It asks both its pools for NVLink between nodes that have none."""


def proof(name: str, text: str | None = None) -> Proof:
    cluster = read_cluster(read_source((ROOT / f"specs/clusters/{CLUSTERS[name]}.yaml").read_text(), "cluster.yaml"))
    spec = (FOLDER / f"{name}.yaml").read_text() if text is None else text
    site = replace(cluster, site={"container": "pyxis"})
    return prove(read_source(spec, "spec.yaml"), site, cards(), load_target("slurm"))


def manifest(name: str) -> Manifest:
    plan = proof(name).plan
    assert plan is not None
    return lower(plan)


def words(name: str, process: str) -> list[Any]:
    launch = manifest(name).process(process).launch
    assert launch is not None
    return list(launch.words)


def after(command: list[Any], flag: str) -> Any:
    return command[command.index(flag) + 1]


def test_every_published_recipe_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CLUSTERS)


@pytest.mark.parametrize("name", CLUSTERS)
def test_it_is_proved_with_no_word_but_what_is_odd_about_it(name: str) -> None:
    found = proof(name)

    assert [diagnostic.code for diagnostic in found.diagnostics] == WARNED.get(name, [])
    assert found.unchecked == ()


@pytest.mark.parametrize("name", CLUSTERS)
def test_it_takes_the_nodes_and_gpus_that_were_published(name: str) -> None:
    plan = proof(name).plan
    assert plan is not None

    assert (plan.nodes, sum(len(p.gpus) for p in plan.processes)) == SIZES[name]


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_resolved_spec_gives_the_same_plan(name: str) -> None:
    plan = proof(name).plan
    assert plan is not None
    again = proof(name, to_yaml(resolved_spec(plan))).plan
    assert again is not None

    assert lower(again) == lower(plan)


@pytest.mark.parametrize("name", ["r1-gb200-sglang", "r1-h200-sglang-mtp", "r1-b200-sglang", "llama-70b-h100-vllm"])
def test_every_flag_of_the_recipe_is_in_the_command(name: str) -> None:
    spec = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    for component in ("prefill", "decode"):
        command = words(name, f"{component}-0")
        args = spec["defaults"]["args"] | spec["components"][component]["args"]
        for flag, value in args.items():
            assert f"--{flag}" in command, flag
            if isinstance(value, list):
                start = command.index(f"--{flag}") + 1
                assert command[start : start + len(value)] == [str(item) for item in value]
            elif value is not True:
                assert after(command, f"--{flag}") == str(value)


def test_nested_options_reach_tensorrt_llm_as_they_were_written() -> None:
    launch = manifest("r1-gb200-trtllm").process("prefill-0").launch
    assert launch is not None
    spec = yaml.safe_load((FOLDER / "r1-gb200-trtllm.yaml").read_text())
    options = yaml.safe_load(launch.files["engine.yaml"])

    assert options == spec["defaults"]["args"] | spec["components"]["prefill"]["args"]
    assert options["cuda_graph_config"] is None
    assert after(list(launch.words), "--extra-engine-args") == FileRef(name="engine.yaml")
    assert after(list(launch.words), "--disaggregation-mode") == "prefill"


def test_the_decode_worker_of_twelve_nodes_meets_at_its_first() -> None:
    found = manifest("r1-gb200-sglang")
    names = ["decode-0", *(f"decode-0-{part}" for part in range(1, 12))]
    leader = found.process("decode-0")
    for rank, name in enumerate(names):
        command = words("r1-gb200-sglang", name)
        meeting = HostRef(node=leader.node, port=leader.ports["rendezvous"])

        assert (after(command, "--nnodes"), after(command, "--node-rank")) == ("12", str(rank))
        assert after(command, "--dist-init-addr") == meeting
    assert [rank for name in names for rank in found.process(name).ranks] == list(range(48))


def test_the_modules_of_dynamo_are_told_their_role() -> None:
    command = words("llama-70b-h100-vllm", "prefill-1")

    assert command[:4] == ["-m", "dynamo.vllm", "--model", "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"]
    assert "--is-prefill-worker" in command
    assert after(command, "--kv-transfer-config") == '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'
