"""Images become files once, whole or not at all. Stand-ins take the place of enroot and Apptainer."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynamoc.compiler.rendering import render

SOURCE = {"pyxis": "docker://nvcr.io#nvidia/x:1", "apptainer": "docker://nvcr.io/nvidia/x:1"}
TOOLS = {
    "enroot": '[[ $1 == import && $2 == --output ]] || exit 9\nsleep 0.3\necho "$4" >"$3"\n',
    "unsquashfs": '[[ $1 == -l ]] || exit 9\ngrep -q docker:// "$2"\n',
    "apptainer": 'case $1 in\n  pull) sleep 0.3; echo "$3" >"$2" ;;\n  inspect) grep -q docker:// "$2" ;;\nesac\n',
}


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Each writes a line to `calls` when it starts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in TOOLS.items():
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $1" >>"{tmp_path}/calls"\n{body}')
        (folder / name).chmod(0o755)
    (tmp_path / "import-image.sh").write_text(render("slurm/import-image.sh.j2"))
    return folder


def fetch(tools: Path, runtime: str, file: Path) -> subprocess.CompletedProcess[str]:
    words = ["bash", str(tools.parent / "import-image.sh"), runtime, SOURCE[runtime], str(file)]
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_jobs_that_start_together_import_once(tools: Path, runtime: str, tmp_path: Path) -> None:
    file = tmp_path / "cache dir" / "image"
    with ThreadPoolExecutor(5) as pool:
        done = list(pool.map(lambda _: fetch(tools, runtime, file), range(5)))
    calls = (tmp_path / "calls").read_text().splitlines()

    assert [one.returncode for one in done] == [0] * 5, [one.stderr for one in done]
    assert file.read_text().strip() == SOURCE[runtime]
    assert len(calls) == len(set(calls)) == 2, "one import and one check"


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_half_an_image_never_gets_the_name_of_a_whole_one(tools: Path, runtime: str, tmp_path: Path) -> None:
    file = tmp_path / "image"
    tool = tools / ("enroot" if runtime == "pyxis" else "apptainer")
    whole = tool.read_text()
    tool.write_text(whole.replace('echo "$4"', "echo half").replace('echo "$3"', "echo half"))
    failed = fetch(tools, runtime, file)
    left = file.exists()
    tool.write_text(whole)
    again = fetch(tools, runtime, file)

    assert failed.returncode == 1
    assert "is no whole" in failed.stderr
    assert not left
    assert again.returncode == 0, again.stderr
    assert file.read_text().strip() == SOURCE[runtime]


def test_a_registry_that_refuses_is_said(tools: Path, tmp_path: Path) -> None:
    (tools / "enroot").write_text("#!/bin/bash\nexit 4\n")
    done = fetch(tools, "pyxis", tmp_path / "image")

    assert done.returncode == 1
    assert "enroot cannot import docker://nvcr.io#nvidia/x:1" in done.stderr
