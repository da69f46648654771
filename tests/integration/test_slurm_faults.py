"""What clusters do to a job, done for real: it ends, it says why, and nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipelines import SMOLLM2
from slurm_cluster import SCRIPT, SlurmCluster, slow, slurm_cluster
from test_slurm_load import CPUS, LONG, SHORT, SPEC, submit, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), nodes=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: SlurmCluster, tmp_path: Path) -> Iterator[SlurmCluster]:
    """A folder of its own for every test; nothing outlives it, and no job was there twice."""
    own = SlurmCluster(shared.conf, tmp_path)
    yield own
    own.settle()


def wait_over(cluster: SlurmCluster, job: str, limit_s: float = 90.0) -> str:
    deadline = time.monotonic() + limit_s
    while (state := cluster.field(job, "JobState")) in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
        assert time.monotonic() < deadline, f"still {state} after {limit_s} s"
        time.sleep(0.5)
    return state


def wait_no_strays(cluster: SlurmCluster, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while cluster.strays() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not cluster.strays()


def batch_shell(job: str) -> int:
    """The process of the job's script."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if len(words) > 1 and words[1].endswith(b"/slurm_script") and f"job{int(job):05}".encode() in words[1]:
                return int(path.name)
    raise AssertionError(f"no script of job {job}")


def duties(cluster: SlurmCluster) -> int:
    """The process that makes the load."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"dynamoc.launcher.slurm.duties" in words and str(cluster.run_folder()).encode() in words:
                return int(path.name)
    raise AssertionError("nothing makes a load")


def agents(cluster: SlurmCluster) -> list[int]:
    return [json.loads(file.read_text())["agent_pid"] for file in cluster.run_folder().glob("status*.json")]


@slow
def test_a_worker_that_is_killed_is_started_again_and_the_load_goes_on(cluster: SlurmCluster) -> None:
    job = submit(cluster, LONG)
    wait_for(cluster, "results/c1.json")
    os.kill(cluster.processes()["decode-0"]["pid"], signal.SIGKILL)
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")
    decode = cluster.processes()["decode-0"]

    assert followed.returncode == 0, followed.stdout
    assert cluster.field(job, "JobState") == "COMPLETED"
    assert (decode["restarts"], decode["incarnation"]) == (1, 1)
    assert "killed by SIGKILL" in (cluster.run_folder() / "evidence/decode-0-0.txt").read_text()


def test_a_batch_shell_that_is_killed_takes_everything_with_it(cluster: SlurmCluster) -> None:
    job = submit(cluster, "")
    cluster.wait_ready()
    os.kill(batch_shell(job), signal.SIGKILL)
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert followed.returncode == 1
    assert "(FAILED)" in followed.stdout
    assert "it was ended by signal 9" in followed.stdout
    wait_no_strays(cluster)


@slow
@pytest.mark.parametrize("node", [0, 1], ids=["of-the-batch-shell", "of-a-worker"])
def test_a_slurmd_that_is_killed_ends_the_job_and_leaves_nothing(cluster: SlurmCluster, node: int) -> None:
    """Slurm needs half a minute to see it; the processes of the node are not Slurm's to end any more."""
    job = submit(cluster, "")
    cluster.wait_ready()
    folder = Path(cluster.conf).parent
    os.kill(int((folder / f"slurmd.node{node}.pid").read_text()), signal.SIGKILL)
    try:
        followed = cluster.dynamoc("submit", "--follow", "runs/latest")
        wait_no_strays(cluster, 120)
    finally:
        environment = {**os.environ, "SLURM_TEST_DIR": str(folder)}
        subprocess.run([SCRIPT, "slurmd", str(node)], env=environment, check=True, timeout=30)

    assert followed.returncode == 1
    assert f"job {job} lost a node (NODE_FAIL)" in followed.stdout


@slow
def test_the_signal_before_the_time_limit_drains_a_service_well(cluster: SlurmCluster) -> None:
    job = submit(cluster, "time_limit: 1 min\n")
    state = wait_over(cluster, job)

    assert state == "COMPLETED"
    assert "draining: asked to drain" in (cluster.run_folder() / f"slurm-{job}.log").read_text()
    assert not cluster.strays()


def test_a_model_that_is_not_there_fails_soon_and_is_named(cluster: SlurmCluster) -> None:
    begin = time.monotonic()
    (cluster.folder / "spec.yaml").write_text(SPEC)
    (cluster.folder / "cluster.yaml").write_text(CPUS + "model_root: /nowhere/models\n")
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml", "--follow")
    evidence = "".join(path.read_text() for path in (cluster.run_folder() / "evidence").iterdir())

    assert done.returncode == 1
    assert time.monotonic() - begin < 60
    assert "/nowhere/models/HuggingFaceTB/SmolLM2-135M-Instruct" in evidence
    assert max(p["incarnation"] for p in cluster.processes().values()) == 1, "the same failure twice is enough"
    assert not cluster.strays()


@slow
def test_a_job_that_cannot_drain_is_ended_at_its_limit_and_gone_on_with(cluster: SlurmCluster) -> None:
    """Its agents are stopped, then its script while it waits for them; Slurm kills all at the limit."""
    first = submit(cluster, LONG.replace("24", "8") + "time_limit: 1 min\n", "--retry", "1")
    wait_for(cluster, "results/c1.json")
    for process in (duties(cluster), *agents(cluster)):
        os.kill(process, signal.SIGSTOP)
    log = cluster.run_folder() / f"slurm-{first}.log"
    deadline = time.monotonic() + 60
    while "goes on with what is left" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(batch_shell(first), signal.SIGSTOP)
    followed = cluster.dynamoc("submit", "--follow", "runs/latest", limit_s=240)
    made = {path.stem for path in cluster.run_folder().glob("results/*.json")}

    assert followed.returncode == 0, followed.stdout
    assert "DUE TO TIME LIMIT" in log.read_text()
    assert cluster.field(first, "JobState") == "TIMEOUT"
    assert made == {"c1", "c2", "c4"}
    assert len(cluster.jobs_by_comment()) == 2


@slow
def test_a_controller_that_is_away_is_waited_for(cluster: SlurmCluster) -> None:
    """The job does not need it; whoever follows the job waits; `status` shows what the run folder says."""
    submit(cluster, LONG)
    wait_for(cluster, "results/c1.json")
    folder = Path(cluster.conf).parent
    os.kill(int((folder / "slurmctld.pid").read_text()), signal.SIGTERM)
    time.sleep(1)
    try:
        status = cluster.dynamoc("status", limit_s=90)
    finally:
        cluster.call("slurmctld", "-f", cluster.conf)
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert "what Slurm has of this run is not known" in status.stderr
    assert "decode-0" in status.stdout
    assert followed.returncode == 0, followed.stdout + followed.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 4 MiB, mounted before the nodes' own mount namespaces are made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@slow
def test_a_full_disk_in_the_run_folder_ends_the_job(small_disk: Path) -> None:
    with slurm_cluster(small_disk, nodes=1) as cluster:
        (cluster.folder / "spec.yaml").write_text(SPEC.replace("tcp", "shm") + SHORT)
        (cluster.folder / "cluster.yaml").write_text(CPUS.replace("count: 2", "count: 1"))
        done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")
        assert done.returncode == 0, done.stderr
        job = done.stdout.split()[-1]
        wait_for(cluster, "health.json")
        with contextlib.suppress(OSError):  # until nothing more fits
            (small_disk / "filler").write_bytes(bytes(8 << 20))
        state = wait_over(cluster, job)
        status = cluster.dynamoc("status")
        wait_no_strays(cluster)
        (small_disk / "filler").unlink()

        assert state == "FAILED"
        assert status.returncode == 1
        assert "Traceback" not in status.stderr
        assert json.loads((cluster.run_folder() / "plan.json").read_text())["name"] == "mock"
        cluster.settle()
