"""`dynamoc check`, and the inventory of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dynamoc.launcher.cli import root
from dynamoc.launcher.inventory import local_cluster
from dynamoc.launcher.reading import Findings, read_inputs

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "specs/graphs/quickstart.yaml"
LAPTOP = ROOT / "specs/clusters/laptop.yaml"


def check(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(root, ["check", *map(str, words)])
    return result.exit_code, result.output


@pytest.mark.parametrize("graph", sorted((ROOT / "specs/graphs").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("cluster", sorted((ROOT / "specs/clusters").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_graph_fits_every_shipped_cluster(graph: Path, cluster: Path) -> None:
    code, output = check(graph, "--cluster", cluster)

    assert code == 0, output
    assert f"{graph.stem} fits {cluster.stem}: " in output


def test_a_wrong_spec_exits_1_with_every_error(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    text = QUICKSTART.read_text().replace("policy: kv", "polcy: kv").replace("port: 8000", "port: no")
    spec.write_text(text)
    line, column = next(
        (n, words.index("polcy") + 1) for n, words in enumerate(text.splitlines(), 1) if "polcy" in words
    )

    code, output = check(spec, "--cluster", LAPTOP)

    assert code == 1
    assert f"--> {spec}:{line}:{column}\n" in output
    assert "a field with a similar name exists: `policy`" in output
    assert output.endswith("2 errors\n")


def test_json_lines(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(QUICKSTART.read_text().replace("policy: kv", "polcy: kv"))

    code, output = check(spec, "--cluster", LAPTOP, "--format", "json")

    assert code == 1
    (found,) = map(json.loads, output.splitlines())
    assert found["code"] == "D110"
    assert found["labels"][0]["span"]["file"] == str(spec)
    assert found["fixes"][0]["edits"][0]["text"] == "policy"
    assert check(QUICKSTART, "--cluster", LAPTOP, "--format", "json") == (0, "")


def test_a_wrong_cluster_exits_1(tmp_path: Path) -> None:
    cluster = tmp_path / "site.yaml"
    cluster.write_text(LAPTOP.read_text().replace("cpus: 8", "cpus: eight"))

    code, output = check(QUICKSTART, "--cluster", cluster)

    assert code == 1
    assert f"--> {cluster}:" in output


def test_usage_errors_exit_2(tmp_path: Path) -> None:
    assert check(tmp_path / "nowhere.yaml")[0] == 2
    assert check(tmp_path)[0] == 2
    assert check(QUICKSTART, "--format", "xml")[0] == 2


def test_the_command_works_without_a_cluster() -> None:
    """In a process of its own: this machine is the inventory."""
    words = [sys.executable, "-m", "dynamoc", "check", str(QUICKSTART)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert result.stderr == ""
    assert (result.returncode, result.stdout[:22]) == (0, "quickstart fits local:")


def test_a_config_beside_the_weights_wins_over_our_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "HuggingFaceTB/SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    facts = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 9}
    (folder / "config.json").write_text(json.dumps(facts | {"max_position_embeddings": 100}))
    monkeypatch.setenv("DYNAMOC_MODEL_ROOT", str(tmp_path))

    code, output = check(QUICKSTART, "--cluster", LAPTOP)

    assert code == 1
    assert "the model has 100 positions" in output


def test_a_config_that_is_no_json_is_an_error_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "HuggingFaceTB/SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"\xff{")
    monkeypatch.setenv("DYNAMOC_MODEL_ROOT", str(tmp_path))

    code, output = check(QUICKSTART, "--cluster", LAPTOP)

    assert (code, output[:11]) == (1, "error[D205]")


@pytest.mark.parametrize("ref", ["../../secrets", "/etc/passwd", "a//b", "", "~", "a/./b"])
def test_a_ref_cannot_leave_the_model_root(tmp_path: Path, ref: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(QUICKSTART.read_text().replace("HuggingFaceTB/SmolLM2-135M-Instruct", f'"{ref}"'))

    assert read_inputs(spec, LAPTOP, Findings()).models.texts == {}


def test_the_inventory_is_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    cluster = local_cluster()

    (node,) = cluster.nodes
    assert node.cpus == len(os.sched_getaffinity(0))
    assert 2**26 < node.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert (node.gpus, node.gpu_kind) == (0, None)
    assert "no nvidia-smi" in cluster.provenance


@pytest.mark.parametrize(
    ("script", "gpus", "words"),
    [
        ("echo 'NVIDIA H200, 143771'\necho 'NVIDIA H200, 143771'", 2, "nvidia-smi"),
        ("echo 'driver mismatch' >&2; exit 9", 0, "nvidia-smi failed"),
    ],
)
def test_gpus_are_those_nvidia_smi_lists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, gpus: int, words: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    cluster = local_cluster()

    assert cluster.nodes[0].gpus == gpus
    assert cluster.nodes[0].gpu_memory_bytes == (143771 * 2**20 if gpus else 0)
    assert words in cluster.provenance
