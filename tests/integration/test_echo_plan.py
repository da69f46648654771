"""The plan is the oracle: real processes report where they are and whom they reached, and that is what was planned."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipelines import SMOLLM2, Pipeline, serving

from dynamoc.runtime.manifest import Manifest, ProcessSpec, Role, read_manifest

pytestmark = [pytest.mark.integration, pytest.mark.model]

GRAPHS = 12


def generated(seed: int) -> tuple[str, str]:
    """A spec and the cluster it fits: one to three nodes, with or without GPUs, aggregated or disaggregated."""
    draw = random.Random(seed)
    nodes, gpus = draw.randint(1, 3), draw.choice([0, 12, 16])
    worker = {"tp": draw.choice([1, 2])} if gpus else {}
    roles = draw.choice([["aggregated"], ["prefill", "decode"], ["prefill", "decode"]])
    components: dict[str, Any] = {
        "api": {"role": "frontend", "port": 8000},
        "router": {"role": "router", "policy": draw.choice(["kv", "round_robin", "least_loaded"])},
    }
    for name in roles:
        components[name] = {"role": name, "replicas": draw.randint(1, 3)}
        if worker:
            components[name]["parallel"] = worker
    edge: Any = {"from": "prefill", "to": "decode"}
    if nodes > 1:
        edge["transport"] = "tcp"
    chain = "api -> router -> " + roles[0]
    spec = {
        "dynamoc": 1,
        "name": f"echo-{seed}",
        "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "defaults": {
            "engine": "echo",
            "device": "cuda" if gpus else "cpu",
            "block_size": draw.choice([8, 16, 32]),
            "context_length": 2048,
            "kv_blocks": 512,
        },
        "components": components,
        "edges": [chain] if len(roles) == 1 else [chain, edge],
    }
    node = {"cpus": 4, "memory": "64 GiB"} | (
        {"gpus": {"count": gpus, "kind": "h100", "memory": "80 GiB"}} if gpus else {}
    )
    cluster = {"name": "site", "nodes": [{"name": f"n{k}", **node} for k in range(nodes)]}
    return yaml.safe_dump(spec, sort_keys=False), yaml.safe_dump(cluster, sort_keys=False)


def reports(pipeline: Pipeline, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """The report of each worker, once all planned peers are connected (bounded)."""
    names = [process.name for process in manifest.processes if process.role.is_worker]
    deadline = time.monotonic() + 20
    while True:
        found = {
            name: json.loads((pipeline.run_dir / f"reports/{name}.json").read_text())
            for name in names
            if (pipeline.run_dir / f"reports/{name}.json").is_file()
        }
        done = len(found) == len(names) and all(
            len(found[p.name]["prefill_workers"]) + len(found[p.name]["decode_workers"])
            == len(planned_peers(manifest, p))
            for p in manifest.processes
            if p.role.is_worker
        )
        if done or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def planned_peers(manifest: Manifest, process: ProcessSpec) -> list[str]:
    pairs = {(edge.source, edge.target) for edge in manifest.edges if edge.kind == "kv"}
    return sorted(
        other.name
        for other in manifest.processes
        if (process.component, other.component) in pairs or (other.component, process.component) in pairs
    )


@pytest.mark.parametrize("seed", range(GRAPHS))
def test_what_runs_is_what_was_planned(seed: int, tmp_path: Path) -> None:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder for the tokenizer: run `make model`")
    spec, cluster = generated(seed)
    with serving(spec, tmp_path, cluster=cluster) as pipeline:
        manifest = read_manifest(pipeline.run_dir / "plan.json")
        found = reports(pipeline, manifest)
        states = pipeline.processes()

        for process in manifest.processes:
            if not process.role.is_worker:
                continue
            report = found[process.name]
            peers = planned_peers(manifest, process)
            assert report == {
                "name": process.name,
                "component": process.component,
                "role": process.role,
                "replica": process.replica,
                "node": process.node,
                "ranks": list(process.ranks),
                "gpus": ",".join(map(str, process.gpus)),
                "ports": process.ports,
                "pid": states[process.name]["pid"],
                "incarnation": 0,
                "router_registered": True,
                "prefill_workers": peers if process.role is Role.DECODE else [],
                "decode_workers": peers if process.role is Role.PREFILL else [],
            }
        assert pipeline.stop() == 0
