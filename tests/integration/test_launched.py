"""Engines that are programs of their own: told the plan's words, watched, restarted and stopped, for real."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipelines import SMOLLM2, serving

from dynamoc.runtime.manifest import read_manifest

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]

PROGRAMS = Path(__file__).parents[1] / "support/programs"
CLUSTER = """
name: site
nodes: [{name: n, count: 2, cpus: 8, memory: 64 GiB, gpus: {count: 3, kind: h100, memory: 80 GiB}}]
"""


def spec() -> str:
    data: dict[str, Any] = {
        "dynamoc": 1,
        "name": "launched",
        "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "defaults": {"engine": "vllm", "env": {"PYTHONPATH": str(PROGRAMS), "MARK": "$HOME; 'x'"}},
        "components": {
            "frontend": {"role": "frontend", "port": 8000},
            "router": {"role": "router"},
            "worker": {"role": "aggregated", "parallel": {"tp": 3, "pp": 2}},
        },
        "edges": ["frontend -> router -> worker"],
    }
    return yaml.safe_dump(data, sort_keys=False)


def told(run_dir: Path, name: str) -> dict[str, Any]:
    file, waited_until = run_dir / f"told/{name}.json", time.monotonic() + 60
    while not file.exists() and time.monotonic() < waited_until:  # written by a program that has just started
        time.sleep(0.05)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_every_part_of_a_worker_is_told_what_the_plan_says(tmp_path: Path) -> None:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder for the tokenizer: run `make model`")
    with serving(spec(), tmp_path, cluster=CLUSTER) as pipeline:
        manifest = read_manifest(pipeline.run_dir / "plan.json")
        leader, follower = manifest.process("worker-0"), manifest.process("worker-0-1")
        first, second = told(pipeline.run_dir, leader.name), told(pipeline.run_dir, follower.name)
        endpoints = json.loads((pipeline.run_dir / "endpoints.json").read_text())
        address = endpoints[leader.name]["host"]

        assert first["module"].endswith("vllm/entrypoints/cli/main.py")
        assert (after(first["words"], "--host"), after(first["words"], "--port")) == (
            address,
            str(leader.ports["http"]),
        )
        for process, node in ((first, "0"), (second, "1")):
            words = process["words"]
            assert after(words, "--master-addr") == address
            assert after(words, "--master-port") == str(leader.ports["rendezvous"])
            assert (after(words, "--nnodes"), after(words, "--node-rank")) == ("2", node)
            assert process["env"]["CUDA_VISIBLE_DEVICES"] == "0,1,2"
            assert process["env"]["MARK"] == "$HOME; 'x'"

        os.kill(first["pid"], signal.SIGKILL)
        pipeline.wait_back(leader.name, 0)
        again = told(pipeline.run_dir, leader.name)
        assert again["pid"] != first["pid"]
        assert again["words"] == first["words"]
        pids = [again["pid"], second["pid"]]
        assert pipeline.stop() == 0
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
