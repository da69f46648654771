"""A campaign on a real Slurm: its launcher is killed while jobs run, and no job is there twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipelines import SMOLLM2
from slurm_cluster import SlurmCluster, slurm_cluster

from dynamoc.launcher.campaign.store import Store
from dynamoc.launcher.slurm.receipts import Receipts

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(400)]
CAMPAIGN = """
dynamoc: 1
campaign: mock
base:
  dynamoc: 1
  name: mock
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: mocker, device: cpu, context_length: 512, kv_blocks: 512, block_size: 16}
  components:
    frontend: {role: frontend, port: 8000}
    router: {role: router}
    prefill: {role: prefill}
    decode: {role: decode}
  edges: [frontend -> router -> prefill, {from: prefill, to: decode, transport: tcp}]
cluster: cluster.yaml
target: slurm
axes: {defaults.max_batched_tokens: [128, 256]}
loads: [{isl: 64, osl: 16, concurrency: [1, 2], requests: 8}]
budget: {at_once: 2}
"""
CPUS = "name: cpus\nnodes: [{name: node, count: 2, cpus: 8, memory: 8 GiB}]\n"
KILLS = 4


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with slurm_cluster(tmp_path / "slurm", nodes=2) as up:
        yield SlurmCluster(up.conf, tmp_path)


def test_killed_launchers_submit_no_job_twice(cluster: SlurmCluster) -> None:
    (cluster.folder / "campaign.yaml").write_text(CAMPAIGN)
    (cluster.folder / "cluster.yaml").write_text(CPUS)
    words = [sys.executable, "-m", "dynamoc", "sweep"]
    dice = random.Random(3)
    store: Store | None = None
    for _ in range(KILLS):
        more = ["campaign.yaml"] if store is None else ["resume", str(store.folder)]
        launcher = subprocess.Popen([*words, *more], cwd=cluster.folder, env=cluster.environment)
        store = store or _store_of(cluster, launcher)
        time.sleep(1 + 4 * dice.random())
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    assert store is not None
    done = cluster.dynamoc("sweep", "resume", str(store.folder), limit_s=240)

    assert done.returncode == 0, done.stdout + done.stderr
    rows = store.results.read()
    assert len(rows) == len({row.point for row in rows}) == 4
    assert all(row.completed == 8 for row in rows)
    attempts = [store.run_folder(event.run) for event in store.journal.read() if event.what == "attempt"]
    assert len(attempts) == 2
    comments = cluster.call("squeue", "--noheader", "--states=all", "--format=%k").stdout.split()
    assert sorted(comments) == sorted(f"dynamoc:{folder.name}" for folder in attempts)
    assert [len(Receipts(folder).jobs()) for folder in attempts] == [1, 1]
    assert json.loads((store.folder / "status.json").read_text())["state"] == "done"


def _store_of(cluster: SlurmCluster, launcher: subprocess.Popen[bytes]) -> Store:
    """The campaign's folder as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and launcher.poll() is None:
        for settings in cluster.folder.glob("campaigns/[!.]*/campaign.json"):
            return Store(settings.parent)
        time.sleep(0.05)
    raise AssertionError("no campaign's folder within a minute")
