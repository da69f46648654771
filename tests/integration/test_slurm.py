"""Compiled jobs under a real Slurm: real text across nodes, plans as planned, nothing twice and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipelines import SMOLLM2
from slurm_cluster import SlurmCluster, slow, slurm_cluster
from test_echo_plan import planned_peers

from dynamoc.runtime.manifest import Role, read_manifest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples/slurm/quickstart"
ECHO = """
dynamoc: 1
name: echo
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
defaults: {engine: echo, device: cuda, context_length: 256, kv_blocks: 64}
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router}
  prefill: {role: prefill, replicas: 3, parallel: {tp: 2}}
  decode: {role: decode, parallel: {tp: 2}}
edges: [frontend -> router -> prefill, {from: prefill, to: decode, transport: tcp}]
"""
GPUS = """
name: gpus
nodes: [{name: node, count: 2, cpus: 8, memory: 8 GiB, gpus: {count: 4, kind: H200}}]
"""

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), nodes=2, gpus=4) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: SlurmCluster, tmp_path: Path) -> Iterator[SlurmCluster]:
    """A folder of its own for every test; nothing outlives it, and no job was there twice."""
    own = SlurmCluster(shared.conf, tmp_path)
    yield own
    own.settle()


def submit_echo(cluster: SlurmCluster) -> str:
    (cluster.folder / "spec.yaml").write_text(ECHO)
    (cluster.folder / "cluster.yaml").write_text(GPUS)
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_real_text_with_prefill_and_decode_on_different_nodes(cluster: SlurmCluster) -> None:
    words = ["--cluster", str(QUICKSTART / "cluster.yaml"), "--follow", "--ask", "What is the capital of France?"]
    done = cluster.dynamoc("submit", str(QUICKSTART / "spec.yaml"), *words)
    manifest = read_manifest(cluster.run_folder() / "plan.json")
    endpoints = json.loads((cluster.run_folder() / "endpoints.json").read_text())

    assert done.returncode == 0, done.stdout + done.stderr
    assert "The capital of France is Paris." in done.stdout
    assert "prefill -> decode by tcp" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("job ")
    assert "(COMPLETED)" in done.stdout
    assert manifest.process("prefill-0").node != manifest.process("decode-0").node
    assert len({place["host"] for place in endpoints.values()}) == 2
    assert not any(place["host"].startswith("127.") for place in endpoints.values())
    assert (cluster.run_folder() / "key").stat().st_mode & 0o777 == 0o600
    assert not cluster.strays()


def test_what_runs_is_what_was_planned_and_it_drains_when_cancelled(cluster: SlurmCluster) -> None:
    job = submit_echo(cluster)
    cluster.wait_ready()
    manifest = read_manifest(cluster.run_folder() / "plan.json")
    hosts = {p["host"] for p in json.loads((cluster.run_folder() / "endpoints.json").read_text()).values()}
    status = cluster.dynamoc("status")
    reports = {file.stem: json.loads(file.read_text()) for file in (cluster.run_folder() / "reports").iterdir()}

    assert len(hosts) == 2
    assert f"job {job} runs (RUNNING) on node[0-1]" in status.stdout
    for process in manifest.processes:
        if process.role.is_worker:
            report = reports[process.name]
            assert report["node"] == process.node
            assert report["ranks"] == list(process.ranks)
            assert report["gpus"] == ",".join(map(str, process.gpus))
            assert report["ports"] == process.ports
            assert report["router_registered"]
            peers = planned_peers(manifest, process)
            assert report["prefill_workers"] == (peers if process.role is Role.DECODE else [])

    cancelled = cluster.dynamoc("cancel")
    order = [p["since"] for _, p in sorted(cluster.processes().items(), key=lambda item: item[0])]

    assert cancelled.returncode == 0, cancelled.stderr
    assert cluster.field(job, "JobState") == "COMPLETED"
    assert {p["state"] for p in cluster.processes().values()} == {"stopped"}
    assert cluster.processes()["frontend-0"]["since"] == min(order), "the frontend stops first"
    assert not cluster.strays()


def test_a_plan_of_one_node_needs_no_peer_to_have_an_address(cluster: SlurmCluster) -> None:
    (cluster.folder / "spec.yaml").write_text(ECHO.replace("replicas: 3, ", "").replace("tcp", "shm"))
    (cluster.folder / "cluster.yaml").write_text(GPUS.replace("count: 2, cpus", "count: 1, cpus"))
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")
    assert done.returncode == 0, done.stderr
    cluster.wait_ready()
    hosts = {process["host"] for process in cluster.processes().values()}

    assert len(hosts) == 1
    assert not hosts.pop().startswith("127.")
    assert cluster.field(done.stdout.split()[-1], "NumNodes") == "1"


@slow
def test_a_lost_node_ends_the_job_and_is_said(cluster: SlurmCluster) -> None:
    submit_echo(cluster)
    cluster.wait_ready()
    cluster.call("scontrol", "update", "nodename=node1", "state=down", "reason=test")
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert followed.returncode == 1
    assert "lost a node (NODE_FAIL)" in followed.stdout
    assert not cluster.strays()


@slow
def test_scancel_leaves_nothing_behind(cluster: SlurmCluster) -> None:
    job = submit_echo(cluster)
    cluster.wait_ready()

    assert cluster.dynamoc("cancel", "--now").returncode == 0
    assert cluster.field(job, "JobState") == "CANCELLED"
    assert not cluster.strays()


@slow
def test_an_agent_that_dies_ends_the_job_as_failed(cluster: SlurmCluster) -> None:
    job = submit_echo(cluster)
    cluster.wait_ready()
    status = json.loads((cluster.run_folder() / "status.node-1.json").read_text())
    os.kill(status["agent_pid"], signal.SIGKILL)
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert followed.returncode == 1
    assert "(FAILED)" in followed.stdout
    assert "the run failed" in followed.stdout
    assert cluster.field(job, "ExitCode") == "1:0"
    assert not cluster.strays()


def test_a_port_that_is_taken_is_named(cluster: SlurmCluster) -> None:
    """Jobs share nodes here, so that a stranger's listener is in the way of ours."""
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 8000)); time.sleep(300)"
    cluster.call("sbatch", "--nodelist=node0", "--mem=100", f'--wrap=exec {sys.executable} -c "{listen}"')
    (cluster.folder / "cluster.yaml").write_text(GPUS + "site: {directives: {exclusive: false, mem: 100}}\n")
    (cluster.folder / "spec.yaml").write_text(ECHO)
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml", "--follow")
    said = (cluster.run_folder() / "logs/agent-0.log").read_text()

    assert done.returncode == 1
    assert "(FAILED)" in done.stdout
    assert "port 8000 (`http` of `frontend-0`)" in said
    assert "cannot be bound" in said
    assert not cluster.strays()


def test_a_partition_that_is_not_there_is_said_before_anything_is_submitted(cluster: SlurmCluster) -> None:
    (cluster.folder / "cluster.yaml").write_text(GPUS + "site: {partition: nowhere}\n")
    (cluster.folder / "spec.yaml").write_text(ECHO)
    before = cluster.job_ids()
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")
    receipts = [json.loads(line)["what"] for line in (cluster.run_folder() / "receipts.jsonl").read_text().splitlines()]

    assert done.returncode == 1
    assert "invalid partition specified: nowhere" in done.stderr
    assert receipts == ["refused"]
    assert cluster.job_ids() == before


@pytest.mark.parametrize("held_s", [0.0, 2.0], ids=["after", "while"])
def test_a_submitter_that_is_killed_leaves_one_job(cluster: SlurmCluster, held_s: float) -> None:
    """Killed after Slurm had the job but before its id was written; or while `sbatch` was still at it."""
    (cluster.folder / "spec.yaml").write_text(ECHO)
    (cluster.folder / "cluster.yaml").write_text(GPUS)
    tools = cluster.folder / "bin"
    tools.mkdir()
    real = cluster.call("which", "sbatch").stdout.strip()
    # The real sbatch; its caller is killed before it can read the answer.
    (tools / "sbatch").write_text(
        f'#!/bin/bash\ncase "$*" in *--test-only*) exec {real} "$@";; esac\n'
        f'kill -KILL $PPID\nsleep {held_s}\nexec {real} "$@"\n'
    )
    (tools / "sbatch").chmod(0o755)
    before = cluster.job_ids()
    words = [sys.executable, "-m", "dynamoc", "submit", "spec.yaml", "--cluster", "cluster.yaml"]
    path = f"{tools}:{os.environ['PATH']}"
    killed = subprocess.run(words, cwd=cluster.folder, env={**cluster.environment, "PATH": path}, check=False)
    again = cluster.dynamoc("submit", "runs/latest")
    once_more = cluster.dynamoc("submit", "runs/latest")
    made = [job for job in cluster.job_ids() if job not in before]

    assert killed.returncode == -signal.SIGKILL
    assert again.returncode == 0, again.stderr
    assert len(made) == 1
    assert again.stdout.split()[-1] == once_more.stdout.split()[-1] == made[0]


@slow
def test_nothing_is_submitted_while_the_controller_is_down(cluster: SlurmCluster) -> None:
    job = submit_echo(cluster)
    cluster.wait_ready()
    folder = Path(cluster.conf).parent
    os.kill(int((folder / "slurmctld.pid").read_text()), signal.SIGTERM)
    time.sleep(1)
    try:
        done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")
        status = cluster.dynamoc(
            "status", next(str(f) for f in (cluster.folder / "runs").iterdir() if f.name != "latest")
        )
    finally:
        cluster.call("slurmctld", "-f", cluster.conf)

    assert done.returncode == 1
    assert "Error: " in done.stderr and "Traceback" not in done.stderr
    assert "Traceback" not in status.stderr
    deadline = time.monotonic() + 30
    while cluster.call("scontrol", "ping").returncode and time.monotonic() < deadline:
        time.sleep(0.2)
    assert cluster.field(job, "JobState") == "RUNNING"
