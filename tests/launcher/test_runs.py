"""Run folders are made whole, private where they must be, and found by what a user remembers of them."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

import pytest

from dynamoc.compiler.artifacts import Artifact
from dynamoc.launcher.runs import RunFolderError, create_run, find_run, has_agent, manifest_of, statuses_of


@pytest.fixture
def artifacts(stage):
    folder = stage.write(stage.actor("decode-0", "ready"), name="quick")
    return (
        Artifact(PurePosixPath("plan.json"), (folder / "plan.json").read_text()),
        Artifact(PurePosixPath("spec.yaml"), "dynamoc: 1\n"),
        Artifact(PurePosixPath("emitted/up.sh"), "true\n", 0o755),
    )


def test_a_run_folder_holds_the_artifacts_and_a_key_nobody_else_reads(artifacts, tmp_path):
    os.umask(old := os.umask(0))
    folder = create_run(tmp_path / "runs", artifacts)
    assert os.umask(old) == old
    assert re.fullmatch(r"quick-\d{8}T\d{6}Z-[0-9a-f]{6}", folder.name)
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert len((folder / "key").read_bytes()) == 32
    assert (folder / "emitted/up.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "runs/latest").resolve() == folder
    assert manifest_of(folder).name == "quick"


def test_runs_made_at_the_same_moment_differ(artifacts, tmp_path):
    folders = [create_run(tmp_path / "runs", artifacts) for _ in range(5)]
    assert len(set(folders)) == 5
    assert len({(folder / "key").read_bytes() for folder in folders}) == 5
    assert (tmp_path / "runs/latest").resolve() == folders[-1]


def test_a_run_is_found_by_path_name_or_beginning(artifacts, tmp_path):
    runs = tmp_path / "runs"
    one, two = create_run(runs, artifacts), create_run(runs, artifacts)
    assert find_run(runs, None) == two
    assert find_run(runs, one.name) == one
    assert find_run(runs, one.name[:-1]) == one
    assert find_run(runs, str(one)) == one
    with pytest.raises(RunFolderError, match=f"may be any of .*{one.name}"):
        find_run(runs, "quick")
    with pytest.raises(RunFolderError, match=r"no run `\[q\]uick` in"):
        find_run(runs, "[q]uick")
    with pytest.raises(RunFolderError, match="start one with `dynamoc up`"):
        find_run(tmp_path / "none", None)


def test_a_place_where_no_folder_can_be_made_is_said(artifacts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot make the run folder"):
        create_run(tmp_path / "file", artifacts)


def test_unreadable_files_are_said(artifacts, tmp_path):
    folder = create_run(tmp_path / "runs", artifacts)
    assert statuses_of(folder, manifest_of(folder)) == {}
    assert not has_agent(folder, 0)
    (folder / "status.json").write_text("{")
    with pytest.raises(RunFolderError, match="unreadable status"):
        statuses_of(folder, manifest_of(folder))
    (folder / "plan.json").write_text("{}")
    with pytest.raises(RunFolderError, match="not a manifest"):
        manifest_of(folder)
