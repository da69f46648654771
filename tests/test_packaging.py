"""What is installed is what is in the tree, whichever way it was built."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def build(source: Path, out: Path, kind: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "build",
        f"--{kind}",
        "--no-isolation",
        "--outdir",
        str(out),
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr

    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def wheel_from_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, folder, "sdist")) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = (path for path in folder.iterdir() if path.is_dir())
    return build(tree, tmp_path_factory.mktemp("wheel-from-sdist"), "wheel")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_from_the_sdist_is_the_wheel(wheel: Path, wheel_from_sdist: Path) -> None:
    assert contents(wheel) == contents(wheel_from_sdist)


@pytest.mark.parametrize("room", ["compiler", "runtime", "launcher", "specs", "templates"])
def test_the_wheel_holds_every_file_of_a_room(wheel: Path, room: str) -> None:
    expected = {
        f"dynamoc/{path.relative_to(ROOT)}"
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }

    assert expected == {name for name in contents(wheel) if name.startswith(f"dynamoc/{room}/")}


def test_the_wheel_works_where_the_tree_is_not(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        "import sys, dynamoc.launcher.cli as cli, dynamoc.compiler, dynamoc.runtime.manifest\n"
        f"assert cli.__file__.startswith({str(tmp_path)!r}), cli.__file__\n"
        "try:\n    import compiler\nexcept ImportError:\n    sys.exit(0)\nsys.exit(1)"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def test_the_folders_are_one_package_only() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import compiler"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode != 0
    assert "import dynamoc.compiler, not compiler" in result.stderr
