"""The quickstart on one, two and four nodes: compiled, submitted by hand, and asked for real text."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipelines import SMOLLM2
from slurm_cluster import SlurmCluster, slow, slurm_cluster

QUICKSTART = Path(__file__).parents[2] / "examples/slurm/quickstart"
WORKERS = {1: "prefill", 2: "prefill", 4: "prefill, replicas: 2"}
CORES = {1: 4, 2: 2, 4: 2}

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(300), slow]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with slurm_cluster(tmp_path_factory.mktemp("quickstart"), nodes=4) as found:
        yield found


def compiled(cluster: SlurmCluster, nodes: int, out: str) -> Path:
    """The folder to submit from: the example, for as many nodes."""
    spec, site = (QUICKSTART / "spec.yaml").read_text(), (QUICKSTART / "cluster.yaml").read_text()
    for role in ("prefill", "decode"):
        spec = spec.replace(f"{role}: {{role: {role}}}", f"{role}: {{role: {WORKERS[nodes].replace('prefill', role)}}}")
    (cluster.folder / "spec.yaml").write_text(spec)
    (cluster.folder / "cluster.yaml").write_text(
        site.replace("count: 2, cpus: 2", f"count: {nodes}, cpus: {CORES[nodes]}")
    )
    done = cluster.dynamoc("compile", "spec.yaml", "--cluster", "cluster.yaml", "--target", "slurm", "-o", out)
    assert done.returncode == 0, done.stderr
    return cluster.folder / out


def sbatch(cluster: SlurmCluster, folder: Path) -> str:
    words = ["sbatch", "--parsable", "emitted/job.sbatch", str(folder / "run")]
    environment = {**cluster.environment, "PYTHON": sys.executable}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait(cluster: SlurmCluster, job: str, folder: Path, states: set[str], limit_s: float = 150.0) -> None:
    deadline = time.monotonic() + limit_s
    while cluster.field(job, "JobState") not in states:
        assert time.monotonic() < deadline, "".join(path.read_text() for path in folder.glob("slurm-*.log"))
        time.sleep(0.3)


def wait_healthy(folder: Path, limit_s: float = 150.0) -> list[str]:
    """The checks that passed."""
    deadline = time.monotonic() + limit_s
    while True:
        path = folder / "run/health.json"
        health = json.loads(path.read_text()) if path.is_file() else {"state": "waiting"}
        if health["state"] == "healthy":
            return [check["name"] for check in health["checks"]]
        log = "".join(path.read_text() for path in folder.glob("slurm-*.log"))
        assert time.monotonic() < deadline and health["state"] != "failed", log
        time.sleep(0.5)


def ask(host: str, question: str) -> str:
    body = {
        "model": "SmolLM2-135M-Instruct",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 16,
        "temperature": 0,
    }
    connection = http.client.HTTPConnection(host, 8000, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_the_compiled_quickstart_serves_real_text(cluster: SlurmCluster, nodes: int) -> None:
    folder = compiled(cluster, nodes, f"on-{nodes}")
    (folder / "load.json").unlink()
    job = sbatch(cluster, folder)
    checks = wait_healthy(folder)
    endpoints = json.loads((folder / "run/endpoints.json").read_text())
    hosts = {role: {e["host"] for n, e in endpoints.items() if n.startswith(role)} for role in ("prefill", "decode")}
    text = ask(endpoints["frontend-0"]["host"], "What is the capital of France?")
    allocated = cluster.field(job, "NumNodes")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    wait(cluster, job, folder, {"COMPLETED", "FAILED"})

    assert "Paris" in text
    assert checks[-1] == "the KV moves as declared"
    assert allocated == str(nodes)
    assert len(hosts["prefill"] | hosts["decode"]) == nodes
    if nodes > 1:
        assert not hosts["prefill"] & hosts["decode"]
    assert cluster.field(job, "JobState") == "COMPLETED"


def test_the_example_as_it_is_makes_its_load_and_ends(cluster: SlurmCluster) -> None:
    folder = compiled(cluster, 2, "example")
    assert (folder / "emitted/job.sbatch").read_text() == (QUICKSTART / "slurm/emitted/job.sbatch").read_text()
    job = sbatch(cluster, folder)
    wait(cluster, job, folder, {"COMPLETED", "FAILED"}, limit_s=240)
    row = json.loads((folder / "run/results/c2.json").read_text())

    assert cluster.field(job, "JobState") == "COMPLETED"
    assert (row["completed"], row["failed"], row["transports"]) == (6, 0, ["tcp"])
