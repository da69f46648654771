"""`compile --locked` and `diff` as users call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dynamoc.launcher.cli import root

ROOT = Path(__file__).parents[2]
CASE = ROOT / "tests/golden/compile/two-pools"
SITE = ["--cluster", str(CASE / "cluster.yaml")]


def dynamoc(*words: str | Path) -> Result:
    return CliRunner().invoke(root, [str(word) for word in words])


def spec(folder: Path, old: str = "", new: str = "") -> Path:
    text = (CASE / "spec.yaml").read_text()
    assert old in text
    path = folder / "spec.yaml"
    path.write_text(text.replace(old, new))
    return path


def compiled(spec: Path, *more: str | Path) -> Result:
    return dynamoc("compile", spec, *SITE, "-o", spec.parent / "out", *more)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_without_drift_the_bytes_are_the_same(tmp_path: Path) -> None:
    compiled(spec(tmp_path))
    before = texts(tmp_path / "out")
    again = compiled(tmp_path / "spec.yaml", "--locked")

    assert again.exit_code == 0, again.output
    assert texts(tmp_path / "out") == before


def test_comments_are_no_drift(tmp_path: Path) -> None:
    compiled(spec(tmp_path))
    done = compiled(spec(tmp_path, "dynamoc: 1", "# what this is\ndynamoc: 1"), "--locked")

    assert done.exit_code == 0, done.output


def test_drift_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    compiled(spec(tmp_path))
    before = texts(tmp_path / "out")
    drifted = compiled(spec(tmp_path, "isl: 8192", "isl: 4096"), "--locked")

    assert drifted.exit_code == 1
    assert drifted.stderr.startswith("error: this is not what was locked: spec, artifact\n")
    assert "\nspec\n  load.isl       8192 → 4096\nartifact\n  resolved.yaml  " in drifted.stderr
    assert drifted.stdout == ""
    assert texts(tmp_path / "out") == before


def test_drift_as_records(tmp_path: Path) -> None:
    compiled(spec(tmp_path))
    changed = spec(tmp_path, "replicas: 1, ", "")
    found = objects(compiled(changed, "--locked", "--format", "json").stderr)

    assert {"class": "spec", "field": "prefill-long.replicas", "locked": 1} in found
    assert all(set(one) <= {"class", "field", "locked", "now"} for one in found)


def test_a_lock_may_be_elsewhere(tmp_path: Path) -> None:
    compiled(spec(tmp_path))
    lock = (tmp_path / "out/lock.yaml").rename(tmp_path / "kept.yaml")

    assert compiled(tmp_path / "spec.yaml", "--locked", lock).exit_code == 0
    assert compiled(spec(tmp_path, "tp: 4", "tp: 2"), "--locked", lock).exit_code == 1


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (None, 2, "cannot be read: No such file"),
        ("dynamoc: 1\n", 2, "is no lock of format 1: it has no `format`"),
        ("format: 1\n", 2, "is no lock of format 1"),
        ("format: [", 1, "error[D101]"),
    ],
)
def test_what_is_no_lock_is_said(text: str | None, status: int, words: str, tmp_path: Path) -> None:
    path = spec(tmp_path)
    (tmp_path / "out").mkdir()
    if text is not None:
        (tmp_path / "out/lock.yaml").write_text(text)
    done = compiled(path, "--locked")

    assert done.exit_code == status
    assert words in done.stderr


def test_images_without_a_digest_are_warned_of_once(tmp_path: Path) -> None:
    image = "vllm/vllm-openai:v0.24.0"
    served = f'engine: vllm, image: "{image}"'
    done = compiled(spec(tmp_path, "engine: mocker, device: cuda, block_size: 64, context_length: 16384", served))

    said = [line for line in done.stderr.splitlines() if line.startswith("warning: without")]
    told = objects(compiled(tmp_path / "spec.yaml", "--format", "json").stderr)

    assert done.exit_code == 0, done.stderr
    assert said == [f"warning: without a digest an image may change unseen: `{image}`"]
    assert {"class": "image", "unpinned": [image]} in told


def test_specs_folders_and_locks_compare(tmp_path: Path) -> None:
    compiled(spec(tmp_path))
    sides = [tmp_path / "spec.yaml", tmp_path / "out", tmp_path / "out/lock.yaml", CASE / "spec.yaml"]
    found = [dynamoc("diff", a, b, *SITE) for a in sides for b in sides]

    assert all((one.exit_code, one.output) == (0, "") for one in found)


def test_differences_stand_under_their_component(tmp_path: Path) -> None:
    other = spec(tmp_path, "name: llama-70b-disagg", "name: other").read_text().replace("replicas: 4", "replicas: 3")
    (tmp_path / "spec.yaml").write_text(other)
    shown = dynamoc("diff", CASE / "spec.yaml", tmp_path / "spec.yaml", *SITE)
    records = objects(dynamoc("diff", CASE / "spec.yaml", tmp_path / "spec.yaml", *SITE, "--format", "json").stdout)

    assert shown.exit_code == 1
    assert shown.stdout.startswith("(pipeline)\n  name ")
    assert "\nprefill\n  replicas " in shown.stdout
    assert {"about": "prefill", "field": "replicas", "a": 4, "b": 3} in records
    (gone,) = (one for one in records if one["field"] == "prefill-3")
    assert gone["a"]["gpus"]
    assert "b" not in gone


def test_a_wrong_spec_has_no_difference_but_errors(tmp_path: Path) -> None:
    done = dynamoc("diff", CASE / "spec.yaml", spec(tmp_path, "tp: 8", "tp: 16"), *SITE)

    assert done.exit_code == 1
    assert "error[D301]" in done.stderr


def test_a_folder_without_a_lock_is_a_usage_error(tmp_path: Path) -> None:
    done = dynamoc("diff", CASE / "spec.yaml", tmp_path, *SITE)

    assert done.exit_code == 2
    assert "lock.yaml cannot be read" in done.stderr
