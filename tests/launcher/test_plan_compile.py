"""The commands `plan` and `compile` as users call them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dynamoc.launcher.cli import root

ROOT = Path(__file__).parents[2]
CASE = ROOT / "tests/golden/compile/two-pools"
SITE = ["--cluster", str(CASE / "cluster.yaml")]


def dynamoc(*words: str) -> Result:
    return CliRunner().invoke(root, list(words))


def wrong(tmp_path: Path) -> str:
    spec = tmp_path / "wrong.yaml"
    spec.write_text((CASE / "spec.yaml").read_text().replace("tp: 8", "tp: 16"))
    return str(spec)


def test_plan_shows_every_process_and_port() -> None:
    shown = dynamoc("plan", str(CASE / "spec.yaml"), *SITE)
    summary = json.loads(dynamoc("plan", str(CASE / "spec.yaml"), *SITE, "--format", "json").output)

    assert shown.exit_code == 0
    for process in summary["processes"]:
        assert process["name"] in shown.output
        assert all(str(port) in shown.output for port in process["ports"].values())
    assert "KV moves prefill → decode by tcp" in shown.output


def test_the_figures_of_a_plan_add_up() -> None:
    summary = json.loads(dynamoc("plan", str(CASE / "spec.yaml"), *SITE, "--format", "json").output)
    by_node = {node["name"]: node for node in summary["nodes"]}

    for name, node in by_node.items():
        here = [process for process in summary["processes"] if process["node"] == name]
        assert node["processes"] == len(here)
        assert node["gpus_used"] == sum(len(process["gpus"]) for process in here) <= node["gpus"]
        assert node["host_bytes"] == sum(process["host_bytes"] for process in here) <= node["memory_bytes"]
    assert all(p["kv_tokens"] == 64 * p["kv_blocks"] for p in summary["processes"])


def test_memory_of_a_native_worker_is_its_weights_and_its_pool() -> None:
    case = ROOT / "tests/golden/compile/quickstart"
    words = ["plan", str(case / "spec.yaml"), "--cluster", str(case / "cluster.yaml"), "--format", "json"]
    worker = json.loads(dynamoc(*words).output)["processes"][-1]
    weights, block = 134_515_008 * 2, 30 * 2 * 3 * 16 * 64 * 2

    assert worker["host_bytes"] == weights + worker["kv_blocks"] * block


SERVED = """\
dynamoc: 1
name: llama
model: {ref: RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic}
defaults: {engine: vllm}
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router}
  prefill: {role: prefill, replicas: 2, args: {tensor-parallel-size: 2, gpu-memory-utilization: 0.95}}
  decode: {role: decode, args: {tensor-parallel-size: 4}}
edges: [frontend -> router -> prefill -> decode]
load: {isl: 8192, osl: 1024}
"""


def test_gpu_memory_is_a_table_by_component(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SERVED)
    words = ["plan", str(spec), "--cluster", str(ROOT / "specs/clusters/h100x8.yaml")]

    summary = json.loads(dynamoc(*words, "--format", "json").output)
    prefill, decode = summary["gpu_memory"]
    lines = dynamoc(*words).output.splitlines()
    row = next(line for line in lines if line.startswith("decode ") and "H100" in line)

    assert len(summary["inventory"]) == 32
    assert (prefill["component"], decode["component"]) == ("prefill", "decode")
    assert prefill["weights"] > 1.9 * decode["weights"]
    assert (prefill["request_tokens"], decode["request_tokens"]) == (8192, 9216)
    assert f"{decode['concurrency']} of 9,216 tokens" in row
    assert f"{decode['kv_tokens']:,}" in row
    assert row.split()[2:6] == ["79.6", "GiB", "16.9", "GiB"]


def test_without_gpus_there_is_no_table_of_their_memory() -> None:
    done = dynamoc("plan", str(CASE / "spec.yaml"), *SITE)

    assert "GPU memory" not in done.output
    assert not json.loads(dynamoc("plan", str(CASE / "spec.yaml"), *SITE, "--format", "json").output)["gpu_memory"]


def test_compile_writes_and_lists_its_files(tmp_path: Path) -> None:
    done = dynamoc("compile", str(CASE / "spec.yaml"), *SITE, "-o", str(tmp_path / "out"))
    written = sorted(str(path) for path in (tmp_path / "out").iterdir())

    assert done.exit_code == 0
    assert sorted(done.output.split()) == written
    assert (tmp_path / "out/plan.json").read_text() == (CASE / "local/plan.json").read_text()


@pytest.mark.parametrize("command", [["plan"], ["compile", "-o", "out"], ["graph", "-o", "out/x.svg"]])
def test_a_wrong_spec_is_shown_and_nothing_is_written(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = dynamoc(*command, wrong(tmp_path), *SITE)

    assert done.exit_code == 1
    assert "error[D301]" in done.output
    assert not (tmp_path / "out").exists()


def test_a_target_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = dynamoc("compile", str(CASE / "spec.yaml"), "--target", "lsf", "-o", str(tmp_path / "out"))

    assert done.exit_code == 2
    assert "no target `lsf`; this version has `local`, `slurm`" in done.output


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = dynamoc("compile", str(CASE / "spec.yaml"), *SITE, "-o", str(tmp_path / "file" / "out"))

    assert done.exit_code == 2
    assert "cannot be written" in done.output
