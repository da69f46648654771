"""Loads of compiled jobs on a real Slurm: made, kept, cut short and gone on with."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipelines import SMOLLM2
from slurm_cluster import SlurmCluster, slow, slurm_cluster

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]
SPEC = """
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
"""
CPUS = "name: cpus\nnodes: [{name: node, count: 2, cpus: 8, memory: 8 GiB}]\n"
SHORT = "load: {isl: 64, osl: 16, concurrency: [2, 4]}\n"
LONG = "load: {isl: 64, osl: 64, concurrency: [1, 2, 4], requests: 24}\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), nodes=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: SlurmCluster, tmp_path: Path) -> Iterator[SlurmCluster]:
    """A folder of its own for every test; nothing outlives it, and no job was there twice."""
    own = SlurmCluster(shared.conf, tmp_path)
    yield own
    own.settle()
    for node in ("node0", "node1", "node2"):
        shared.call("scontrol", "update", f"nodename={node}", "state=resume")


def submit(cluster: SlurmCluster, load: str, *words: str, site: str = "") -> str:
    """The id of the job."""
    (cluster.folder / "spec.yaml").write_text(SPEC + load)
    (cluster.folder / "cluster.yaml").write_text(CPUS + site)
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("job: "))


def rows(cluster: SlurmCluster) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in cluster.run_folder().glob("results/*.json")}


def receipts(cluster: SlurmCluster, what: str) -> list[dict[str, Any]]:
    lines = (cluster.run_folder() / "receipts.jsonl").read_text().splitlines()
    return [found for line in lines if (found := json.loads(line))["what"] == what]


def wait_for(cluster: SlurmCluster, path: str, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not (cluster.run_folder() / path).exists():
        log = "".join(file.read_text() for file in cluster.run_folder().glob("slurm-*.log"))
        assert time.monotonic() < deadline, f"no {path} after {limit_s} s\n{log}"
        time.sleep(0.2)


def test_a_job_with_a_load_makes_it_and_ends_by_itself(cluster: SlurmCluster) -> None:
    job = submit(cluster, SHORT, "--follow")
    health = json.loads((cluster.run_folder() / "health.json").read_text())
    found = rows(cluster)

    assert cluster.field(job, "JobState") == "COMPLETED"
    assert sorted(found) == ["c2", "c4"]
    for row in found.values():
        assert row["completed"] == row["requests"] == 10 * row["concurrency"]
        assert (row["isl"], row["osl"], row["failed"]) == (64.0, 16.0, 0)
        assert row["transports"] == ["tcp"]
        assert 0 < row["ttft_ms"]["p50"] < row["e2e_ms"]["p50"]
    assert health["state"] == "healthy"
    assert [check["state"] for check in health["checks"]] == ["passed"] * 7
    assert not (cluster.run_folder() / "evidence").exists()
    assert not cluster.strays()


def test_serving_is_a_choice_and_ends_well_when_it_is_cancelled(cluster: SlurmCluster) -> None:
    job = submit(cluster, SHORT, "--serve")
    cluster.wait_ready()
    assert not (cluster.run_folder() / "load.json").exists()
    assert "health: healthy" in _until(cluster, "health: healthy")

    assert cluster.dynamoc("cancel").returncode == 0
    assert cluster.field(job, "JobState") == "COMPLETED"
    assert not rows(cluster)


def _until(cluster: SlurmCluster, words: str) -> str:
    deadline = time.monotonic() + 30
    while words not in (said := cluster.dynamoc("status").stdout) and time.monotonic() < deadline:
        time.sleep(0.5)
    return said


@slow
def test_a_load_of_which_nothing_comes_fails_the_job_with_evidence(cluster: SlurmCluster) -> None:
    """The load asks for more than any request may have; the spec's own proof is gone round by editing `load.json`."""
    (cluster.folder / "spec.yaml").write_text(SPEC + SHORT)
    (cluster.folder / "cluster.yaml").write_text(CPUS)
    cluster.dynamoc("compile", "spec.yaml", "--cluster", "cluster.yaml", "--target", "slurm", "-o", "out")
    path = cluster.folder / "out/load.json"
    path.write_text(re.sub(r'"osl": 16', '"osl": 4000', path.read_text()))
    done = cluster.dynamoc("submit", "out", "--follow")

    assert done.returncode == 1
    assert "error: load point `c2`: none of 20 requests was completed; the first error is: status 400" in done.stdout
    assert "(FAILED)" in done.stdout
    assert "status 400" in (cluster.run_folder() / "evidence/load-c2.txt").read_text()
    assert not rows(cluster)
    assert not cluster.strays()


@slow
def test_a_load_that_is_told_to_stop_is_gone_on_with_by_the_next_job(cluster: SlurmCluster) -> None:
    """What the signal before the time limit does: the job drains, and submits the one that makes the other points."""
    first = submit(cluster, LONG, "--retry", "1")
    wait_for(cluster, "results/c1.json")
    cluster.call("scancel", "--batch", "--signal=USR1", first)
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")
    second = receipts(cluster, "submitted")[-1]["job"]
    begun = {name: row["started"] for name, row in rows(cluster).items()}

    assert followed.returncode == 0, followed.stdout
    assert cluster.field(first, "ExitCode") == "75:0"
    assert cluster.field(second, "JobState") == "COMPLETED"
    assert f"job {second} goes on with what is left" in (cluster.run_folder() / f"slurm-{first}.log").read_text()
    assert receipts(cluster, "intent")[1]["after"] == first
    assert sorted(begun) == ["c1", "c2", "c4"]
    assert begun["c1"] < min(begun["c2"], begun["c4"]), "the first is not made again"
    assert {p["incarnation"] for p in cluster.processes().values()} == {1}


@slow
def test_a_lost_node_is_left_out_by_the_next_job_and_the_number_of_jobs_is_bounded(cluster: SlurmCluster) -> None:
    first = submit(cluster, LONG, "--retry", "1")
    wait_for(cluster, "results/c1.json")
    lost = cluster.call("scontrol", "show", "hostnames", cluster.field(first, "NodeList")).stdout.split()[1]
    cluster.call("scontrol", "update", f"nodename={lost}", "state=down", "reason=test")
    cluster.call("scontrol", "update", f"nodename={lost}", "state=drain", "reason=test")
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")
    jobs = [receipt["job"] for receipt in receipts(cluster, "submitted")]

    assert followed.returncode == 0, followed.stdout
    assert "lost a node (NODE_FAIL)" in followed.stdout
    assert len(jobs) == 2
    assert receipts(cluster, "intent")[1]["excluded"] == [lost]
    assert cluster.field(jobs[1], "ExcNodeList") == lost
    assert sorted(rows(cluster)) == ["c1", "c2", "c4"]


@slow
def test_without_leave_nothing_goes_on(cluster: SlurmCluster) -> None:
    job = submit(cluster, LONG)
    wait_for(cluster, "results/c1.json")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert followed.returncode == 1
    assert "it was told to stop before all was asked" in followed.stdout
    assert [receipt["job"] for receipt in receipts(cluster, "submitted")] == [job]


@slow
def test_a_preempted_load_waits_for_its_turn_and_goes_on(cluster: SlurmCluster) -> None:
    first = submit(cluster, LONG, "--retry", "1")
    wait_for(cluster, "results/c1.json")
    cluster.call("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--mem=0", "--wrap=sleep 3")
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert followed.returncode == 0, followed.stdout
    assert "was preempted (PREEMPTED)" in followed.stdout
    assert cluster.field(first, "JobState") == "PREEMPTED"
    assert sorted(rows(cluster)) == ["c1", "c2", "c4"]
    assert not cluster.strays()


@slow
def test_a_requeued_job_goes_on_in_its_own_folder(cluster: SlurmCluster) -> None:
    job = submit(cluster, LONG, site="site: {directives: {requeue: true}}\n")
    wait_for(cluster, "results/c1.json")
    cluster.call("scontrol", "requeue", job)
    time.sleep(3)
    cluster.call("scontrol", "update", f"jobid={job}", "StartTime=now")  # not after the two minutes that Slurm waits
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert followed.returncode == 0, followed.stdout
    assert cluster.field(job, "Restarts") == "1"
    assert sorted(rows(cluster)) == ["c1", "c2", "c4"]
    assert {p["incarnation"] for p in cluster.processes().values()} == {1}
    assert not cluster.strays()


@slow
def test_logs_of_a_job_that_waits_say_for_what(cluster: SlurmCluster) -> None:
    cluster.call("sbatch", "--nodes=3", "--exclusive", "--mem=0", "--wrap=sleep 6")
    submit(cluster, SHORT)
    followed = cluster.dynamoc("logs", "--follow")

    assert followed.returncode == 0
    assert "waits for its nodes (PENDING)" in followed.stderr
    assert "decode-0 | " in followed.stdout


CAMPAIGN = """
dynamoc: 1
campaign: blocks
base: spec.yaml
cluster: cluster.yaml
target: slurm
axes: {defaults.block_size: [16, 32]}
loads: [{isl: 64, osl: 16, concurrency: [2, 4], requests: 8}]
"""


def test_a_campaign_is_submitted_as_an_array_once_and_every_point_has_its_results(cluster: SlurmCluster) -> None:
    (cluster.folder / "spec.yaml").write_text(SPEC)
    (cluster.folder / "cluster.yaml").write_text(CPUS)
    (cluster.folder / "campaign.yaml").write_text(CAMPAIGN)
    compiled = cluster.dynamoc("compile", "campaign.yaml", "--target", "slurm", "-o", "out")
    assert compiled.returncode == 0, compiled.stderr
    done = cluster.dynamoc("submit", "out", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    job = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("job: "))
    path = cluster.run_folder() / "receipts.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"submitted"' not in line))
    again = cluster.dynamoc("submit", "runs/latest", "--follow")
    status = cluster.dynamoc("status")
    results = [len(list(cluster.run_folder().glob(f"points/{p}*/run/results/*.json"))) for p in ("00", "01")]

    assert f"job: {job}\n" in again.stdout, "a crash before the receipt makes no second array"
    assert again.returncode == status.returncode == 0, again.stdout + status.stdout
    assert status.stdout.count("did what it was asked to (COMPLETED)") == 2
    assert results == [2, 2]
    assert cluster.dynamoc("cancel").stdout == f"array {job} is over\n"
    assert cluster.dynamoc("submit", "runs/latest", "--retry", "1").returncode == 2


@slow
def test_an_array_is_cancelled_with_what_waits(cluster: SlurmCluster) -> None:
    (cluster.folder / "spec.yaml").write_text(SPEC)
    (cluster.folder / "cluster.yaml").write_text(CPUS)
    (cluster.folder / "campaign.yaml").write_text(CAMPAIGN.replace("requests: 8", "requests: 400"))
    cluster.dynamoc("compile", "campaign.yaml", "--target", "slurm", "-o", "out")
    assert cluster.dynamoc("submit", "out").returncode == 0
    wait_for(cluster, "points/00-block_size-16/run/health.json")
    waiting = cluster.dynamoc("status")
    cancelled = cluster.dynamoc("cancel")
    status = cluster.dynamoc("status")

    assert "points/01-block_size-32: " in waiting.stdout and "waits for its nodes (PENDING)" in waiting.stdout
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    assert "it was told to stop before all was asked" in status.stdout
    assert "was cancelled (CANCELLED)" in status.stdout
    assert not cluster.strays()
