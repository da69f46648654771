"""The archive a job carries: equal bytes for equal files, wheels laid out as installed, and unpacked once a node."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynamoc.compiler.rendering import render
from dynamoc.launcher.shipping import Shipment, pack, shipment_for
from dynamoc.launcher.wheels import ShippingError, interpreter_of, wheels_in

WHEEL = {
    "extra/__init__.py": "X = 1\n",
    "extra-1.0.data/purelib/more.py": "Y = 2\n",
    "extra-1.0.data/scripts/tool": "#!/bin/sh\n",
    "extra-1.0.dist-info/METADATA": "Name: extra\n",
}


def wheel(folder: Path, files: dict[str, str], name: str = "extra-1.0-py3-none-any.whl") -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return folder


@pytest.fixture(scope="module")
def own() -> Shipment:
    return pack(())


@pytest.fixture
def unpack(tmp_path: Path) -> Path:
    script = tmp_path / "unpack.sh"
    script.write_text(render("slurm/unpack.sh.j2"))
    return script


def names_in(shipment: Shipment) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(shipment.content)) as archive:
        return archive.getnames()


def run(script: Path, archive: Path, digest: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["bash", str(script), str(archive), digest, str(folder)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_equal_files_are_equal_bytes(own: Shipment) -> None:
    assert pack(()).content == own.content
    assert len(own.content) < 2_000_000


def test_an_interpreter_imports_from_the_unpacked_tree_alone(own: Shipment, unpack: Path, tmp_path: Path) -> None:
    folder = tmp_path / "local" / own.digest
    done = run(unpack, own.write(tmp_path / "out"), own.digest, folder)
    words = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); import dynamoc as d"]
    words[-1] += "; import dynamoc.runtime.environment; print(d.__file__)"
    imported = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)

    assert done.returncode == 0, done.stderr
    assert imported.stdout.strip() == str(folder / "dynamoc/__init__.py")
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_wheels_lie_where_an_installer_would_put_them(tmp_path: Path) -> None:
    names = names_in(pack(wheels_in(wheel(tmp_path / "wheels", WHEEL), None)))

    assert {"extra/__init__.py", "more.py", "extra-1.0.dist-info/METADATA"} <= set(names)
    assert not any("scripts" in name or ".data" in name for name in names)
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"../evil.py": ""}, "would lie outside"),
        ({"/evil.py": ""}, "would lie outside"),
        ({"a-1.data/purelib/../../evil.py": ""}, "would lie outside"),
        ({"dynamoc/__init__.py": "other"}, "two of the packages"),
    ],
)
def test_a_wheel_that_cannot_be_carried_is_refused(files: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ShippingError, match=said):
        pack(wheels_in(wheel(tmp_path / "wheels", files), None))


def test_a_folder_without_wheels_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShippingError, match="no wheel"):
        wheels_in(tmp_path, None)
    (tmp_path / "a-1-py3-none-any.whl").write_text("no zip")
    with pytest.raises(ShippingError, match="cannot be read"):
        pack(wheels_in(tmp_path, None))
    (tmp_path / "odd.whl").write_text("")
    with pytest.raises(ShippingError, match="no name of a wheel"):
        wheels_in(tmp_path, None)


@pytest.mark.parametrize(
    ("python", "carried"),
    [
        ("/opt/bin/python3.11", {"a-1-cp311-cp311-linux_x86_64.whl", "b-1-cp39-abi3-any.whl", "c-1-py3-none-any.whl"}),
        ("python3.12", {"a-1-cp312-cp312-linux_aarch64.whl", "b-1-cp39-abi3-any.whl", "c-1-py3-none-any.whl"}),
        ("/opt/bin/python3", None),
    ],
)
def test_of_each_package_the_wheel_for_the_nodes_is_carried(
    python: str, carried: set[str] | None, tmp_path: Path
) -> None:
    names = ("a-1-cp311-cp311-linux_x86_64", "a-1-cp312-cp312-linux_aarch64", "b-1-cp39-abi3-any", "c-1-py3-none-any")
    for name in names:
        wheel(tmp_path, {}, f"{name}.whl")
    found = {path.name for path in wheels_in(tmp_path, interpreter_of({"python": python}))}

    assert found == (carried if carried is not None else {f"{name}.whl" for name in names})


def test_wheels_for_another_interpreter_are_named(tmp_path: Path) -> None:
    wheel(tmp_path, {}, "fast_json-1-cp38-cp38-linux_x86_64.whl")
    with pytest.raises(ShippingError, match=r"no wheel of `fast-json` is for the nodes' interpreter \(python3.11\)"):
        wheels_in(tmp_path, interpreter_of({"python": "python3.11"}))
    with pytest.raises(ShippingError, match="this one"):
        wheels_in(tmp_path, interpreter_of({}))


def test_nothing_is_known_of_the_interpreter_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON", raising=False)
    assert interpreter_of({}) is not None
    assert interpreter_of({"container": "pyxis", "image": "one"}) is None
    monkeypatch.setenv("PYTHON", "/elsewhere/python3")
    assert interpreter_of({}) is None


def test_only_a_site_that_asks_for_it_gets_an_archive() -> None:
    assert shipment_for({}) is None
    assert shipment_for({"runtime": "path"}) is None
    assert shipment_for({"runtime": "archive"}) is not None


def test_many_at_once_unpack_one_whole_tree(own: Shipment, unpack: Path, tmp_path: Path) -> None:
    archive, folder = own.write(tmp_path / "out"), tmp_path / "local" / own.digest
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: run(unpack, archive, own.digest, folder), range(6)))
    files = sum(path.is_file() for path in folder.rglob("*"))

    assert [one.returncode for one in done] == [0] * 6, [one.stderr for one in done]
    assert files == len(names_in(own))
    assert list(folder.parent.iterdir()) == [folder], "no draft is left"


def test_another_archive_is_not_unpacked(own: Shipment, unpack: Path, tmp_path: Path) -> None:
    archive, folder = own.write(tmp_path / "out"), tmp_path / "local" / own.digest
    archive.write_bytes(own.content[:-1])
    done = run(unpack, archive, own.digest, folder)

    assert done.returncode == 1
    assert "its digest is another" in done.stderr
    assert list(folder.parent.iterdir()) == []


def test_a_folder_of_somebody_else_is_not_used(own: Shipment, unpack: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "local").symlink_to(tmp_path / "theirs")
    done = run(unpack, own.write(tmp_path / "out"), own.digest, tmp_path / "local" / own.digest)

    assert done.returncode == 1
    assert "belongs to somebody else" in done.stderr
    assert not os.listdir(tmp_path / "theirs")


def test_trees_that_nobody_uses_any_more_are_taken_away(own: Shipment, unpack: Path, tmp_path: Path) -> None:
    archive, home = own.write(tmp_path / "out"), tmp_path / "local"
    old, running, recent = home / "old", home / "running", home / "recent"
    for tree in (old, running, recent):
        (tree / "dynamoc").mkdir(parents=True)
        os.utime(tree, (1, 1) if tree is not recent else None)
    with subprocess.Popen(["sleep", "60"], env={"PYTHONPATH": str(running)}) as process:
        try:
            done = run(unpack, archive, own.digest, home / own.digest)
        finally:
            process.kill()
    os.utime(home / own.digest, (1, 1))
    again = run(unpack, archive, own.digest, home / own.digest)

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert {path.name for path in home.iterdir()} == {"running", "recent", own.digest}
    assert (home / own.digest).stat().st_mtime > 1, "a start says that it is in use"
