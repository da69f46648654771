"""The Slurm target: committed folders, scripts that shells accept, and lines that follow from one field each."""

from __future__ import annotations

import copy
import difflib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from generators import texts
from proving import ROOT, cards

from dynamoc.compiler.artifacts import Artifacts, write
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.directives import clock
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.runtime.manifest import decode_manifest

CASES = sorted(
    path.parent for folder in ("tests/golden/slurm", "examples/slurm") for path in (ROOT / folder).glob("*/spec.yaml")
)
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
SITE = ROOT / "tests/golden/slurm/site"


def compiled(spec: str, cluster: str) -> Artifacts:
    site = read_cluster(read_source(cluster, "cluster.yaml"))
    return compile_spec(read_source(spec, "spec.yaml"), site, load_target("slurm"), cards())


def artifacts_of(case: Path) -> Artifacts:
    return compiled((case / "spec.yaml").read_text(), (case / "cluster.yaml").read_text())


def directives(script: str) -> dict[str, str]:
    """Value by option, without where it comes from."""
    found = re.findall(r"^(#?)#SBATCH --([a-z-]+)(?:=(.*?))? +# .+$", script, re.MULTILINE)
    assert len(found) == script.count("#SBATCH")
    return {option: preferred + value for preferred, option, value in found}


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_artifacts_are_those_on_record(case: Path, golden: Any) -> None:
    artifacts = artifacts_of(case)
    for artifact in artifacts:
        golden.check(case / "slurm" / artifact.path, artifact.text)

    on_record = {str(path.relative_to(case / "slurm")) for path in (case / "slurm").rglob("*") if path.is_file()}
    assert {str(a.path) for a in artifacts} == on_record


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_scripts_are_clean(case: Path, tmp_path: Path) -> None:
    write(artifacts_of(case), tmp_path)

    subprocess.run(["/bin/bash", "-n", tmp_path / "emitted/job.sbatch"], check=True, timeout=30)
    subprocess.run([SHELLCHECK, tmp_path / "emitted/job.sbatch"], check=True, timeout=60)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_job_asks_for_what_the_plan_uses(case: Path) -> None:
    files = texts(artifacts_of(case))
    manifest = decode_manifest(files["plan.json"])
    asked = directives(files["emitted/job.sbatch"])
    gpus = max((gpu + 1 for process in manifest.processes for gpu in process.gpus), default=0)

    assert asked["nodes"] == asked["ntasks"] == str(manifest.nodes)
    assert asked["ntasks-per-node"] == "1"
    assert asked.get("gres", "gpu:0") == f"gpu:{gpus}" or asked["gpus-per-node"] == str(gpus)
    assert all(process.name in files["README.md"] for process in manifest.processes)


def test_directives_come_before_the_first_command() -> None:
    lines = texts(artifacts_of(SITE))["emitted/job.sbatch"].splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))

    assert all(n < first for n, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_the_site_says_the_rest() -> None:
    asked = directives(texts(artifacts_of(SITE))["emitted/job.sbatch"])

    assert asked["segment"] == "2"
    assert asked["gpus-per-node"] == "4"
    assert asked["mem"] == "500G"
    assert asked["time"] == "2:00:00"
    assert asked["cpus-per-task"].isdecimal()
    assert not {"gres", "exclusive", "no-requeue", "hold"} & asked.keys()


Edit = tuple[tuple[str | int, ...], Any, set[str], str]
"""A field, what is written there, the directives that follow from it, and (as a pattern) the other lines that do."""
NODES = r"nodes=|with_processes=|printf 'the frontend|image_of="
PORTS = r"offset|turn|tried|votes|free|which address|declare|agent.address|dynamoc.runtime agent|^done$|^$|while read"
SPEC_EDITS: list[Edit] = [
    (("name",), "other", {"job-name"}, ""),
    (("time_limit",), "4:00:00", {"time"}, ""),
    (("time_limit",), "1 min", {"time", "signal"}, ""),
    (("components", "worker", "replicas"), 40, {"nodes", "ntasks", "segment"}, NODES),
    (("components", "worker", "replicas"), 2, {"nodes", "ntasks", "segment", "gpus-per-node", "cpus-per-task"}, NODES),
    (("components", "frontend", "replicas"), 1, {"cpus-per-task"}, "printf 'the frontend"),
    (("components", "frontend", "port"), 9000, set(), "printf 'the frontend"),
    (("model", "served_name"), "else", set(), ""),
    (("model", "revision"), "main", set(), ""),
    (("defaults", "context_length"), 128, set(), ""),
    (("defaults", "block_size"), 32, set(), ""),
    (("components", "worker", "env"), {"A": "$(touch owned)"}, set(), ""),
]
SITE_EDITS: list[Edit] = [
    (("site", "partition"), "debug", {"partition"}, ""),
    (("site", "account"), "theirs", {"account"}, ""),
    (("site", "qos"), "low", {"qos"}, ""),
    (("site", "reservation"), "tuesday", {"reservation"}, ""),
    (("site", "segment"), "off", {"segment"}, ""),
    (("site", "segment"), "preferred", {"segment"}, ""),
    (("site", "extra"), ["--comment-of-plugin=a b"], {"comment-of-plugin"}, ""),
    (("site", "directives", "mem"), "100G", {"mem"}, ""),
    (("site", "directives", "cpus-per-task"), 8, {"cpus-per-task"}, ""),
    (("site", "directives", "constraint"), "gb300", {"constraint"}, ""),
    (("site", "directives", "time"), "1:00:00", {"time"}, ""),
    (("site", "directives", "segment"), False, {"segment"}, ""),
    (("site", "directives", "requeue"), False, {"requeue", "no-requeue"}, ""),
    (("site", "directives", "gpus-per-node"), False, {"gpus-per-node", "gres"}, ""),
    (("site", "directives", "exclude"), "node7", {"exclude"}, ""),
    (("site", "directives", "mail-type"), "END", {"mail-type"}, ""),
    (("site", "directives", "exclusive"), True, {"exclusive", "cpus-per-task"}, PORTS),
    (("site", "interface"), "eth1", set(), "--interface="),
    (("site", "python"), "/usr/bin/python3", set(), "python="),
    (("site", "runtime"), "archive", set(), "emitted|runtime|local_folder|digest|expanded where|^python="),
    (("port_base",), 40000, set(), ""),
]


def name_of(value: Any) -> str:
    """Of a parameter: the same in every process, whatever the order of a set."""
    return str(sorted(value) if isinstance(value, set) else value)[:40]


def edited(text: str, path: tuple[str | int, ...], value: Any) -> str:
    data = copy.deepcopy(yaml.safe_load(text))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return yaml.safe_dump(data, sort_keys=False)


@pytest.mark.parametrize(("path", "value", "asked", "others"), SPEC_EDITS, ids=name_of)
def test_an_edit_of_the_spec_changes_only_its_lines(
    path: tuple[str | int, ...], value: Any, asked: set[str], others: str
) -> None:
    spec, cluster = (SITE / "spec.yaml").read_text(), (SITE / "cluster.yaml").read_text()

    expect_changes(compiled(spec, cluster), compiled(edited(spec, path, value), cluster), asked, others)


@pytest.mark.parametrize(("path", "value", "asked", "others"), SITE_EDITS, ids=name_of)
def test_an_edit_of_the_site_changes_only_its_lines(
    path: tuple[str | int, ...], value: Any, asked: set[str], others: str
) -> None:
    spec, cluster = (SITE / "spec.yaml").read_text(), (SITE / "cluster.yaml").read_text()

    expect_changes(compiled(spec, cluster), compiled(spec, edited(cluster, path, value)), asked, others)


def expect_changes(before: Artifacts, after: Artifacts, asked: set[str], others: str) -> None:
    """Both directives and all other lines of the script."""
    old, new = (texts(artifacts)["emitted/job.sbatch"] for artifacts in (before, after))
    ours, theirs = directives(old), directives(new)
    changed = [line[2:] for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "+-"]
    rest = [line for line in changed if not line.lstrip("#").startswith("SBATCH")]

    assert {option for option in ours.keys() | theirs.keys() if ours.get(option) != theirs.get(option)} == asked
    assert [line for line in rest if not (others and re.search(others, line))] == []
    assert bool(rest) == bool(others)


@pytest.mark.parametrize("option", ["nodes", "output", "signal", "export", "comment"])
def test_what_follows_from_the_plan_is_not_the_sites_to_set(option: str) -> None:
    cluster = edited((SITE / "cluster.yaml").read_text(), ("site", "directives", option), "x")

    with pytest.raises(CompileError, match="is not the site's to set"):
        compiled((SITE / "spec.yaml").read_text(), cluster)


@pytest.mark.parametrize("field", ["partition", "account", "interface", "python"])
def test_a_word_of_the_site_cannot_leave_its_line(field: str) -> None:
    cluster = edited((SITE / "cluster.yaml").read_text(), ("site", field), "x\nrm -rf run")

    with pytest.raises(CompileError):
        compiled((SITE / "spec.yaml").read_text(), cluster)


@pytest.mark.parametrize(
    ("seconds", "text"), [(60, "0:01:00"), (59.2, "0:01:00"), (14400, "4:00:00"), (129600, "1-12:00:00")]
)
def test_time_limits_are_spelled_as_slurm_reads_them(seconds: float, text: str) -> None:
    assert clock(seconds) == text
