"""Plans of many shapes on a real cluster: what every process reports is what was planned, on nodes Slurm chose."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import yaml
from pipelines import SMOLLM2
from slurm_cluster import WANTED, SlurmCluster, slow, slurm_cluster
from slurm_jobs import KINDS, SHAPES, Job, addresses, check, generated, inventory, pipeline, submit, told

from dynamoc.compiler.arrays import Point, arrays_of
from dynamoc.compiler.artifacts import write
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import build_plan, emit
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]

GRAPHS = 20 if WANTED in os.environ else 4
"""Of four shapes; few where tests of everything are run."""
AT_ONCE = 4
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    pairs = [number for kind in KINDS for number in (kind["count"], kind["gpus"])]
    with slurm_cluster(tmp_path_factory.mktemp("shapes"), *pairs) as found:  # type: ignore[arg-type]
        yield found


def test_generated_plans_run_as_planned(cluster: SlurmCluster) -> None:
    """Of one, two and three kinds of node, on nodes of their own and on shared ones; several jobs at a time."""

    def one(seed: int) -> tuple[int, int]:
        spec, site = generated(seed)
        job = submit(cluster, f"echo-{seed}", spec, site)
        try:
            check(job, shared=SHAPES[seed % len(SHAPES)] == "shared")
            components = (job.folder / "emitted/job.sbatch").read_text().count("#SBATCH hetjob\n") + 1
            return components, job.manifest.nodes
        finally:
            job.end()

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        shapes = list(pool.map(one, range(GRAPHS)))

    assert {components for components, _ in shapes} == {1, 2, 3}
    assert {nodes for _, nodes in shapes} >= {1, 2, 3}


def test_two_jobs_share_a_node_without_meeting(cluster: SlurmCluster) -> None:
    site = inventory([KINDS[2]], directives={"exclusive": False, "mem": "2G"})
    jobs = [
        submit(
            cluster,
            f"together-{number}",
            pipeline(
                "together", 8500 + number, {"worker": {"role": "aggregated", "replicas": 2, "parallel": {"tp": 1}}}
            ),
            site,
            "--nodelist=node5",
        )
        for number in range(2)
    ]
    turns = [check(job, shared=True) for job in jobs]
    states = [cluster.field(job.id, "JobState") for job in jobs]
    gpus = [set(job.detail()["node5"]) for job in jobs]
    taken = [
        {p for e in json.loads((j.run_dir / "endpoints.json").read_text()).values() for p in e["ports"].values()}
        for j in jobs
    ]
    for job in jobs:
        job.end()

    assert states == ["RUNNING", "RUNNING"]
    assert turns[0] != turns[1]
    assert not gpus[0] & gpus[1]
    assert not taken[0] & taken[1]


@slow
def test_a_worker_over_two_nodes_meets_at_the_address_of_its_first(cluster: SlurmCluster) -> None:
    job = submit(cluster, "multi-node", told("vllm", tp=3, pp=2), inventory([{**KINDS[1], "gpus": 3, "count": 2}]))
    found = job.wait("told", ["worker-0", "worker-0-1"])
    endpoints, manifest = json.loads((job.run_dir / "endpoints.json").read_text()), job.manifest
    given, node_at = job.detail(), addresses(cluster)
    job.end()

    leader = endpoints["worker-0"]
    for number, (name, process) in enumerate(found.items()):
        words = process["words"]
        assert words[words.index("--master-addr") + 1] == leader["host"]
        assert words[words.index("--node-rank") + 1] == str(number)
        host = node_at[endpoints[name]["host"]]
        assert process["env"]["CUDA_VISIBLE_DEVICES"] == ",".join(given[host][g] for g in manifest.process(name).gpus)
    assert len({endpoint["host"] for name, endpoint in endpoints.items() if name in found}) == 2


@slow
@pytest.mark.parametrize("exclusive", [True, False], ids=["own nodes", "shared nodes"])
def test_mpi_ranks_are_one_step_and_every_rank_sees_the_same(cluster: SlurmCluster, exclusive: bool) -> None:
    """`pmi2` here: it needs no library on the nodes. Ranks of both nodes, one world, words of leader and followers."""
    site = inventory(
        [{**KINDS[1], "gpus": 3, "count": 2}], mpi="pmi2", directives={"exclusive": exclusive, "mem": "2G"}
    )
    job = submit(cluster, f"world-{exclusive}", told("trtllm", tp=3, pp=2), site)
    manifest = job.manifest
    parts = [process for process in manifest.processes if process.role.is_worker]
    names = [f"{part.name}.{rank}" for part in parts for rank in part.ranks]
    found = job.wait("told", names)
    script = (job.folder / "emitted/job.sbatch").read_text()
    deadline = time.monotonic() + 30
    states: dict[str, str] = {}
    while set(states.values()) != {"ready"} and time.monotonic() < deadline:
        files = job.run_dir.glob("status*.json")
        states = {n: p["state"] for f in files for n, p in json.loads(f.read_text())["processes"].items()}
        time.sleep(0.2)
    given, node_at = job.detail(), addresses(cluster)
    endpoints = json.loads((job.run_dir / "endpoints.json").read_text())
    job.end()

    assert [name.partition(".")[2] for name in names] == [str(rank) for rank in range(6)]
    assert script.count("-m dynamoc.runtime rank") == 1
    assert "--mpi=pmi2" in script
    assert states == dict.fromkeys([p.name for p in manifest.processes], "ready")
    for part in parts:
        host = node_at[endpoints[part.name]["host"]]
        for rank in part.ranks:
            process = found[f"{part.name}.{rank}"]
            assert process["module"].endswith("serve.py" if rank == 0 else "mgmn_worker_node.py")
            assert process["env"]["PMI_RANK"] == process["env"]["SLURM_PROCID"] == str(rank)
            assert process["env"]["PMI_SIZE"] == "6"
            assert process["env"]["CUDA_VISIBLE_DEVICES"] == ",".join(given[host][gpu] for gpu in part.gpus)
    options = found["worker-0.0"]["files"]
    assert list(options) == [str(job.run_dir / "launch/worker-0/engine.yaml")]
    assert yaml.safe_load(next(iter(options.values())))["tensor_parallel_size"] == 3
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{process['pid']}").exists() for process in found.values()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{process['pid']}").exists() for process in found.values())


@slow
def test_an_array_runs_every_point_in_its_own_folder(cluster: SlurmCluster) -> None:
    """Points of two shapes are two arrays, one of several kinds of node is alone; at most two run at a time."""
    folder = cluster.folder / "campaign"
    kinds = {"small": [{**KINDS[1], "count": 1}], "large": [{**KINDS[2], "count": 1}], "mixed": [KINDS[0], KINDS[1]]}
    points, sources = [], []
    for number, kind in enumerate(["small", "large", "small", "mixed", "small"]):
        tp = {"small": 4, "large": 6, "mixed": 4}[kind]
        text = pipeline(f"point-{number}", 8700 + number, {"worker": {"role": "aggregated", "parallel": {"tp": tp}}})
        source, site = read_source(text, "spec.yaml"), read_cluster(read_source(inventory(kinds[kind]), "cluster.yaml"))
        plan, _ = build_plan(source, site, ModelLibrary(), load_target("slurm"))
        points.append(Point(PurePosixPath(f"points/{number} of 'five'"), plan))
        sources.append(source)
    made = arrays_of("five", points, 2)
    write(tuple(array.script for array in made.arrays), folder)
    for array in made.arrays:
        for point in array.points:
            artifacts = emit(sources[points.index(point)], point.plan, load_target("slurm"), ModelLibrary())
            write(artifacts, folder / array.folder / point.folder)
    for array in made.arrays:
        subprocess.run([SHELLCHECK, folder / array.script.path], check=True, timeout=60)
    environment = {**cluster.environment, "PYTHON": sys.executable}
    jobs = []
    for array in made.arrays:
        words, home = ["sbatch", "--parsable", "emitted/job.sbatch"], folder / array.folder
        done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        jobs.append(done.stdout.strip())
    try:
        for job, array in zip(jobs, made.arrays, strict=True):
            for task, point in enumerate(array.points):
                found = Job(cluster, f"{job}_{task}", folder / array.folder / point.folder)
                check(found, shared=False)
                running = cluster.call("squeue", "--noheader", f"--jobs={job}", "--states=R", "--format=%i").stdout
                assert len(running.split()) <= 2
                found.end()
    finally:
        for job in jobs:
            cluster.call("scancel", job)

    assert [[points.index(point) for point in array.points] for array in made.arrays] == [[0, 2, 4], [1]]
    assert [points.index(point) for point in made.alone] == [3]


@slow
def test_a_job_that_needs_every_gpu_node_starts_and_is_one_job(cluster: SlurmCluster) -> None:
    """Processes without GPUs take no node of those with; after a crash its components are one job."""
    workers = {
        "four": {"role": "aggregated", "replicas": 3, "parallel": {"tp": 4}},
        "six": {"role": "aggregated", "replicas": 3, "parallel": {"tp": 6}},
    }
    data = yaml.safe_load(pipeline("whole", 8800, workers))
    data["edges"] = ["api -> router -> four", "router -> six"]
    (cluster.folder / "spec.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    (cluster.folder / "cluster.yaml").write_text(inventory([*KINDS]))
    before = cluster.job_ids()
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[-1]
    cluster.wait_ready()
    status = cluster.dynamoc("status").stdout
    receipts = cluster.run_folder() / "receipts.jsonl"
    kept = [line for line in receipts.read_text().splitlines(keepends=True) if '"submitted"' not in line]
    receipts.write_text("".join(kept))
    again = cluster.dynamoc("submit", "runs/latest")
    cancelled = cluster.dynamoc("cancel")

    assert f"job {job} runs (RUNNING) on node[5-7],node[2-4],node" in status
    assert again.stdout.split()[-1] == job, again.stderr
    assert len([found for found in cluster.job_ids() if found not in before]) == 3, "its components"
    assert cancelled.returncode == 0, cancelled.stderr
    assert cluster.field(job, "JobState") == "COMPLETED"


def test_every_process_of_the_jobs_ends_with_them(cluster: SlurmCluster) -> None:
    deadline = time.monotonic() + 60
    while cluster.call("squeue", "--noheader").stdout.strip() and time.monotonic() < deadline:
        time.sleep(0.3)
    mark = str(cluster.folder).encode()
    left = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environ = (path / "environ").read_bytes()
        except OSError:
            continue
        if b"DYNAMOC_RUN_DIR=" + mark in environ and int(path.name) != os.getpid():
            left.append((path / "comm").read_text().strip())
    assert left == []
