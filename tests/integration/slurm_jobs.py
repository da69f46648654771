"""Jobs of generated plans for tests on a real cluster: written, submitted by hand, and held against their plans."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from slurm_cluster import SlurmCluster
from test_echo_plan import planned_peers

from dynamoc.compiler.artifacts import write
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.runtime.manifest import Manifest, Role, read_manifest

KINDS = (
    {"name": "cpu", "gpus": 0, "count": 2},
    {"name": "four", "gpus": 4, "count": 3},
    {"name": "six", "gpus": 6, "count": 3},
)
SHAPES = ("one kind", "two kinds", "three kinds", "shared")
READY_S = 90.0
DETAIL = re.compile(r"Nodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)")
PROGRAMS = Path(__file__).parents[1] / "support/programs"


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


def told(engine: str, **parallel: int) -> str:
    """A worker over two nodes, with a small program in the place of its engine."""
    data = yaml.safe_load(
        pipeline(f"told-{engine}", 8600, {} | {"worker": {"role": "aggregated", "parallel": parallel}})
    )
    data["defaults"] = {"engine": engine, "context_length": 256, "env": {"PYTHONPATH": str(PROGRAMS)}}
    return yaml.safe_dump(data, sort_keys=False)
