"""Plans of many shapes on a real cluster: what every process reports is what was planned, on nodes Slurm chose."""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from pipelines import SMOLLM2
from slurm_cluster import SlurmCluster, slurm_cluster
from test_echo_plan import planned_peers

from dynamoc.compiler.arrays import Point, arrays_of
from dynamoc.compiler.artifacts import write
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import build_plan, compile_spec, emit
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.runtime.manifest import Manifest, Role, read_manifest

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]

KINDS = (
    {"name": "cpu", "gpus": 0, "count": 2},
    {"name": "four", "gpus": 4, "count": 3},
    {"name": "six", "gpus": 6, "count": 3},
)
SHAPES = ("one kind", "two kinds", "three kinds", "shared")
GRAPHS = 20
AT_ONCE = 4
READY_S = 90.0
DETAIL = re.compile(r"Nodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)")
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
PROGRAMS = Path(__file__).parents[1] / "support/programs"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    pairs = [number for kind in KINDS for number in (kind["count"], kind["gpus"])]
    with slurm_cluster(tmp_path_factory.mktemp("shapes"), *pairs) as found:  # type: ignore[arg-type]
        yield found


def inventory(kinds: list[dict[str, Any]], **site: Any) -> str:
    """A cluster file of some kinds of node of the test cluster."""
    nodes = []
    for kind in kinds:
        gpus = {"gpus": {"count": kind["gpus"], "kind": "H200", "gres": "h200"}} if kind["gpus"] else {}
        nodes.append({"name": kind["name"], "count": kind["count"], "cpus": 16, "memory": "62 GiB"} | gpus)
    return yaml.safe_dump({"name": "site", "nodes": nodes, "site": site}, sort_keys=False)


def pipeline(name: str, port: int, components: dict[str, Any], transport: str = "tcp") -> str:
    """A spec of echo workers behind a frontend."""
    first = next(iter(components))
    edges: list[Any] = [f"api -> router -> {first}"]
    if first == "prefill":
        edges.append({"from": "prefill", "to": "decode", "transport": transport})
    data = {
        "dynamoc": 1,
        "name": name,
        "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "defaults": {"engine": "echo", "device": "cuda", "block_size": 16, "context_length": 256, "kv_blocks": 64},
        "components": {"api": {"role": "frontend", "port": port}, "router": {"role": "router"}} | components,
        "edges": edges,
    }
    return yaml.safe_dump(data, sort_keys=False)


def generated(seed: int) -> tuple[str, str]:
    """A spec, and a cluster file that it fits."""
    draw = random.Random(seed)
    shape = SHAPES[seed % len(SHAPES)]
    kinds = {
        "one kind": [KINDS[draw.choice([1, 2])]],
        "two kinds": [KINDS[0], KINDS[draw.choice([1, 2])]],
        "three kinds": [*KINDS],
        "shared": [KINDS[2]],
    }[shape]
    if shape != "shared":  # as many nodes as make the plan use several of them
        kinds = [{**kind, "count": draw.randint(1, 2) if kind["gpus"] else 1} for kind in kinds]
    tp = draw.choice([1, 2, 3]) if shape != "three kinds" else draw.choice([2, 4])
    room = sum(kind["gpus"] // tp * kind["count"] for kind in kinds)
    worker = {"parallel": {"tp": tp}}
    if draw.random() < 0.6 and room > 1:
        prefill = draw.randint(1, min(2, room - 1))
        components = {
            "prefill": {"role": "prefill", "replicas": prefill, **worker},
            "decode": {"role": "decode", "replicas": min(2, room - prefill), **worker},
        }
    else:
        components = {"worker": {"role": "aggregated", "replicas": min(3, room), **worker}}
    site = {"directives": {"exclusive": False, "mem": "2G"}} if shape == "shared" else {}
    return pipeline(f"echo-{seed}", 8000 + seed, components), inventory(kinds, **site)


@dataclass
class Job:
    """A submitted plan."""

    cluster: SlurmCluster
    id: str
    folder: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "plan.json")

    def detail(self) -> dict[str, list[str]]:
        """The GPUs that Slurm gave this job, by node."""
        text = self.cluster.call("scontrol", "show", "job", "--details", self.id).stdout
        return {node: indices(gres) for nodes, gres in DETAIL.findall(text) for node in self.hostnames(nodes)}

    def hostnames(self, nodes: str) -> list[str]:
        return self.cluster.call("scontrol", "show", "hostnames", nodes).stdout.split()

    def wait(self, folder: str, names: list[str]) -> dict[str, dict[str, Any]]:
        """Files of the run by these names, once all are there."""
        deadline = time.monotonic() + READY_S
        paths = [self.run_dir / folder / f"{name}.json" for name in names]
        while not all(path.is_file() for path in paths):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.3)
        return {name: json.loads(path.read_text()) for name, path in zip(names, paths, strict=True)}

    def reports(self) -> dict[str, dict[str, Any]]:
        """Of all workers, once each has found its peers."""
        manifest = self.manifest
        workers = [p for p in manifest.processes if p.role.is_worker]
        deadline = time.monotonic() + READY_S
        while True:
            found = self.wait("reports", [p.name for p in workers])
            peers = {p.name: len(planned_peers(manifest, p)) for p in workers}
            met = {name: len(r["prefill_workers"]) + len(r["decode_workers"]) for name, r in found.items()}
            if met == peers or time.monotonic() > deadline:
                return found
            time.sleep(0.3)

    def log(self) -> str:
        files = [*self.folder.glob("slurm-*.log"), *(self.run_dir / "logs").glob("*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in files)

    def end(self) -> None:
        self.cluster.call("scancel", "--batch", "--signal=USR1", self.id)


def indices(gres: str) -> list[str]:
    """0, 1 and 4 of `gpu:h200:3(IDX:0-1,4)`."""
    found = re.search(r"\(IDX:([0-9,-]+)\)", gres)
    ranges = [part.partition("-") for part in found[1].split(",")] if found else []
    return [str(n) for low, _, high in ranges for n in range(int(low), int(high or low) + 1)]


def submit(cluster: SlurmCluster, name: str, spec: str, site: str, *words: str) -> Job:
    folder = cluster.folder / name
    folder.mkdir()
    read = read_cluster(read_source(site, "cluster.yaml"))
    write(compile_spec(read_source(spec, "spec.yaml"), read, load_target("slurm"), ModelLibrary()), folder)
    done = subprocess.run(
        ["sbatch", "--parsable", *words, "emitted/job.sbatch", str(folder / "run")],
        cwd=folder,
        env={**cluster.environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Job(cluster, done.stdout.strip(), folder)


def addresses(cluster: SlurmCluster) -> dict[str, str]:
    """Node by address."""
    lines = (Path(cluster.conf).parent / "hosts").read_text().splitlines()
    return dict(line.split() for line in lines)


def check(job: Job, shared: bool) -> set[int]:
    """Every report is what the plan says; how far the ports were turned."""
    reports, manifest = job.reports(), job.manifest
    endpoints = json.loads((job.run_dir / "endpoints.json").read_text())
    given, node_at = job.detail(), addresses(job.cluster)
    where: dict[int, set[str]] = {}
    turns = set()
    for process in manifest.processes:
        host = node_at[endpoints[process.name]["host"]]
        where.setdefault(process.node, set()).add(host)
        ports = endpoints[process.name]["ports"]
        if process.role is Role.FRONTEND:
            assert ports == process.ports
            continue
        assert ports.keys() == process.ports.keys()
        turns |= {(ports[purpose] - port) % manifest.port_range.count for purpose, port in process.ports.items()}
        if not process.role.is_worker:
            continue
        report, peers = reports[process.name], planned_peers(manifest, process)
        assert report["gpus"] == ",".join(given[host][gpu] for gpu in process.gpus), (process.name, given)
        assert report["ports"] == ports
        wanted = {
            "name": process.name,
            "component": process.component,
            "role": process.role,
            "replica": process.replica,
            "node": process.node,
            "ranks": list(process.ranks),
            "incarnation": 0,
            "router_registered": True,
            "prefill_workers": peers if process.role is Role.DECODE else [],
            "decode_workers": peers if process.role is Role.PREFILL else [],
        }
        assert {key: report[key] for key in wanted} == wanted
    assert all(len(hosts) == 1 for hosts in where.values()), where
    assert len({host for hosts in where.values() for host in hosts}) == len(where), "two nodes of the plan are one"
    assert len(turns) == 1
    assert shared or turns == {0}
    return turns


def test_twenty_generated_plans_run_as_planned(cluster: SlurmCluster) -> None:
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


def told(engine: str, **parallel: int) -> str:
    """A worker over two nodes, with a small program in the place of its engine."""
    data = yaml.safe_load(
        pipeline(f"told-{engine}", 8600, {} | {"worker": {"role": "aggregated", "parallel": parallel}})
    )
    data["defaults"] = {"engine": engine, "env": {"PYTHONPATH": str(PROGRAMS)}}
    return yaml.safe_dump(data, sort_keys=False)


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


def test_an_array_runs_every_point_in_its_own_folder(cluster: SlurmCluster) -> None:
    """Points of two shapes are two arrays, one of several kinds of node is alone; at most two run at a time."""
    folder = cluster.folder / "campaign"
    kinds = {"small": [{**KINDS[1], "count": 1}], "large": [{**KINDS[2], "count": 1}], "mixed": [KINDS[0], KINDS[1]]}
    points = []
    for number, kind in enumerate(["small", "large", "small", "mixed", "small"]):
        tp = {"small": 4, "large": 6, "mixed": 4}[kind]
        text = pipeline(f"point-{number}", 8700 + number, {"worker": {"role": "aggregated", "parallel": {"tp": tp}}})
        source, site = read_source(text, "spec.yaml"), read_cluster(read_source(inventory(kinds[kind]), "cluster.yaml"))
        plan, _ = build_plan(source, site, ModelLibrary(), load_target("slurm"))
        name = PurePosixPath(f"points/{number} of 'five'")
        (folder / name).mkdir(parents=True)
        write(emit(source, plan, load_target("slurm"), ModelLibrary()), folder / name)
        points.append(Point(name, plan))
    made = arrays_of("five", points, 2)
    write(tuple(array.script for array in made.arrays), folder)
    for array in made.arrays:
        subprocess.run([SHELLCHECK, folder / array.script.path], check=True, timeout=60)
    environment = {**cluster.environment, "PYTHON": sys.executable}
    jobs = []
    for array in made.arrays:
        words = ["sbatch", "--parsable", str(array.script.path)]
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        jobs.append(done.stdout.strip())
    try:
        for job, array in zip(jobs, made.arrays, strict=True):
            for task, point in enumerate(array.points):
                found = Job(cluster, f"{job}_{task}", folder / point.folder)
                check(found, shared=False)
                running = cluster.call("squeue", "--noheader", f"--jobs={job}", "--states=R", "--format=%i").stdout
                assert len(running.split()) <= 2
                found.end()
    finally:
        for job in jobs:
            cluster.call("scancel", job)

    assert [[points.index(point) for point in array.points] for array in made.arrays] == [[0, 2, 4], [1]]
    assert [points.index(point) for point in made.alone] == [3]


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
