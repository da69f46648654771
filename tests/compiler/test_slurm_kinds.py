"""Slurm jobs over several kinds of node, on nodes that are shared, with MPI worlds: the text, and who is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest
from generators import texts
from proving import ROOT, cards

from dynamoc.compiler.array_plan import ArrayPlan
from dynamoc.compiler.arrays import Point, arrays_of
from dynamoc.compiler.artifacts import write
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.pipeline import build_plan, compile_spec
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

MIXED = ROOT / "tests/golden/slurm-kinds/mixed"
SPEC, CLUSTER = ((MIXED / name).read_text() for name in ("spec.yaml", "cluster.yaml"))
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def script(spec: str = SPEC, cluster: str = CLUSTER) -> str:
    site = read_cluster(read_source(cluster, "cluster.yaml"))
    return texts(compile_spec(read_source(spec, "spec.yaml"), site, load_target("slurm"), cards()))[
        "emitted/job.sbatch"
    ]


def plan(spec: str, cluster: str = CLUSTER) -> Plan:
    site = read_cluster(read_source(cluster, "cluster.yaml"))
    return build_plan(read_source(spec, "spec.yaml"), site, cards(), load_target("slurm"))[0]


def components(text: str) -> list[list[str]]:
    """Options of each component of a job."""
    header = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    found: list[list[str]] = [[]]
    for line in header:
        if line == "#SBATCH hetjob":
            found.append([])
        else:
            found[-1].append(line.partition(" # ")[0].removeprefix("#SBATCH --").strip())
    return found


def test_the_script_is_the_one_on_record(golden: Any, tmp_path: Path) -> None:
    text = script()
    golden.check(MIXED / "job.sbatch", text)
    path = tmp_path / "job.sbatch"
    path.write_text(text)

    subprocess.run(["/bin/bash", "-n", path], check=True, timeout=30)
    subprocess.run([SHELLCHECK, path], check=True, timeout=60)


def test_every_component_says_where_it_runs_and_only_the_first_what_holds_for_all() -> None:
    first, second = components(script())
    names = [{option.partition("=")[0] for option in component} for component in (first, second)]

    assert {"partition=batch", "time=1:00:00", "nodes=2", "mem=32G"} <= set(first) & set(second)
    assert "gres=gpu:h200:6" in first, "Slurm gives nodes in order: who needs most comes first"
    assert "gres=gpu:h100:3" in second
    assert names[0] - names[1] == {"export", "job-name", "open-mode", "output", "signal"}
    assert names[1] <= names[0]


def test_nodes_that_are_alike_are_one_plain_job() -> None:
    alike = CLUSTER.replace("h100", "h200").replace("H100", "H200").replace("count: 4", "count: 6")
    alike = alike.replace("cpus: 16", "cpus: 32").replace("memory: 64", "memory: 128")
    text = script(cluster=alike)

    assert "het" not in text
    assert len(components(text)) == 1


def test_a_site_without_heterogeneous_jobs_refuses_mixed_plans_and_no_others() -> None:
    site = CLUSTER.replace("exclusive: false", "exclusive: false, hetjob: false")
    with pytest.raises(CompileError, match=r"D403.*takes no heterogeneous jobs"):
        script(cluster=site)
    small = SPEC.replace(", parallel: {tp: 3, pp: 4}", ", parallel: {tp: 1}").replace("replicas: 2, ", "")

    assert "hetjob" not in script(spec=small, cluster=site)


def test_whole_nodes_keep_the_ports_of_the_plan() -> None:
    text = script(cluster=CLUSTER.replace("exclusive: false, ", ""))

    assert "--port-offset" not in text
    assert "--exclusive" in text
    assert [option for option in components(text)[0] if option.startswith("mincpus=")]


def test_points_that_ask_for_the_same_are_one_array(tmp_path: Path) -> None:
    one = SPEC.replace(", parallel: {tp: 3, pp: 4}", ", parallel: {tp: 1}").replace("replicas: 2, ", "")
    longer = one.replace("1:00:00", "2:00:00").replace("name: mixed", "name: longer")
    plans = [plan(one), plan(longer), plan(one.replace("tp: 3", "tp: 1")), plan(SPEC)]
    points = [Point(PurePosixPath(f"points/{number} 'x'"), found) for number, found in enumerate(plans)]
    made = arrays_of("sweep", points, 8)
    write(tuple(array.script for array in made.arrays), tmp_path)
    first = made.arrays[0].script.text

    assert [[points.index(point) for point in array.points] for array in made.arrays] == [[0, 1], [2]]
    assert made.alone == (points[3],)
    assert {"array=0-1%8", "job-name=dynamoc-sweep", "output=slurm-%A_%a.log", "time=2:00:00"} <= set(
        components(first)[0]
    )
    for array in made.arrays:
        subprocess.run([SHELLCHECK, tmp_path / array.script.path], check=True, timeout=60)
    listing = msgspec.json.decode(made.arrays[0].listing.text, type=ArrayPlan)
    assert listing == ArrayPlan(name="sweep-0", points=("points/0 'x'", "points/1 'x'"))


def test_a_point_without_a_limit_is_not_cut_off_by_another() -> None:
    one = SPEC.replace(", parallel: {tp: 3, pp: 4}", ", parallel: {tp: 1}").replace("replicas: 2, ", "")
    points = [
        Point(PurePosixPath("a"), plan(one)),
        Point(PurePosixPath("b"), plan(one.replace("time_limit: 1:00:00", ""))),
    ]

    assert "--time" not in arrays_of("sweep", points, 2).arrays[0].script.text
