"""What targets write: golden folders, scripts that shells accept, and files that say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generators import texts
from proving import ROOT, cards

from dynamoc.compiler.artifacts import Artifacts, differences, write
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.rendering import render, to_yaml
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.runtime.manifest import decode_manifest

CASES = sorted(
    path.parent for folder in ("tests/golden/compile", "examples/local") for path in (ROOT / folder).glob("*/spec.yaml")
)
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def artifacts_of(case: Path) -> Artifacts:
    cluster = read_cluster(read_source((case / "cluster.yaml").read_text(), "cluster.yaml"))
    source = read_source((case / "spec.yaml").read_text(), "spec.yaml")
    return compile_spec(source, cluster, load_target("local"), cards())


def test_there_are_cases() -> None:
    assert len(CASES) >= 4


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_artifacts_are_those_on_record(case: Path, golden: Any) -> None:
    artifacts = artifacts_of(case)
    for artifact in artifacts:
        golden.check(case / "local" / artifact.path, artifact.text)

    assert {str(a.path) for a in artifacts} == {path.name for path in (case / "local").iterdir()}


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_scripts_are_clean(case: Path, tmp_path: Path) -> None:
    artifacts = artifacts_of(case)
    write(artifacts, tmp_path)
    scripts = [tmp_path / artifact.path for artifact in artifacts if artifact.path.suffix == ".sh"]

    assert scripts
    for script in scripts:
        assert os.access(script, os.X_OK)
        subprocess.run(["/bin/bash", "-n", script], check=True, timeout=30)
        subprocess.run([SHELLCHECK, script], check=True, timeout=60)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_files_tell_one_story(case: Path) -> None:
    files = texts(artifacts_of(case))
    manifest = decode_manifest(files["plan.json"])
    inventory = json.loads(files["inventory.json"])

    assert manifest.nodes <= len(inventory["nodes"])
    assert all(process.name in files["README.md"] for process in manifest.processes)
    assert all(f"--node {node} " in files["up.sh"] for node in range(manifest.nodes))


def test_words_reach_the_shell_as_they_are(tmp_path: Path) -> None:
    """Names with quotes, spaces, dollars and newlines are printed by the script, not run."""
    nasty = 'it\'s $(touch owned) `id` "x"\nnext; \\'
    values = {"name": "x", "model": nasty, "hosts": "127.0.0.1", "endpoints": ["http://h"]}
    script = render("local/up.sh.j2", nodes=[0], processes=[], transports=[], **values)
    (tmp_path / "up.sh").write_text(script)
    (tmp_path / "plan.json").write_text("{}")
    done = subprocess.run(
        ["/bin/bash", "up.sh"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert f"serving {nasty} at http://h" in done.stdout
    assert not (tmp_path / "owned").exists()
    assert done.returncode == 2, "the agent's word on a manifest that is none"


@pytest.mark.parametrize("text", ["no", "1e3", "4:00:00", "010", "~", "a: b", "# x", "it's", "tab\there", "é\n", ""])
def test_strings_come_back_from_yaml_as_they_were(text: str) -> None:
    data = read_source(to_yaml({"key": [text, {text or "empty": text}]}), "x.yaml").data

    assert data == {"key": [text, {text or "empty": text}]}


def test_written_folders_show_no_difference(tmp_path: Path) -> None:
    artifacts = artifacts_of(CASES[0])
    write(artifacts, tmp_path)
    (tmp_path / "README.md").write_text("edited")

    assert differences(artifacts, tmp_path) == ("README.md",)
