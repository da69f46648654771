"""When a start of a job ends itself: Slurm says that it is over, or that it was started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamoc.launcher.slurm.guard import Guard, guard_of_this_job

LINE = "JobId=7 JobState={state} Reason=None Requeue=1 Restarts={restarts} ExitCode=0:0 NodeList=node[0-1]"


def scontrol_says(folder: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """A program of that name which answers so, first on the path."""
    tool = folder / "scontrol"
    tool.write_text(f"#!/bin/sh\n{words}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("state", "restarts", "verdict"),
    [
        ("RUNNING", 0, ""),
        ("PENDING", 0, ""),
        ("SUSPENDED", 0, ""),
        ("NODE_FAIL", 0, "for Slurm, job 7 lost a node (NODE_FAIL)"),
        ("CANCELLED", 0, "for Slurm, job 7 was cancelled (CANCELLED)"),
        ("PENDING", 1, "job 7 was started again"),
        ("RUNNING", 2, "job 7 was started again"),
        ("HIBERNATING", 0, ""),
    ],
)
def test_what_slurm_says_of_the_job(
    state: str, restarts: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol_says(tmp_path, monkeypatch, f"echo '{LINE.format(state=state, restarts=restarts)}'")
    said = Guard("7", 0).verdict()

    assert bool(said) == bool(verdict)
    assert verdict in said


def test_a_restart_that_is_its_own_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol_says(tmp_path, monkeypatch, f"echo '{LINE.format(state='RUNNING', restarts=1)}'")
    assert Guard("7", 1).verdict() == ""


@pytest.mark.parametrize(
    "words",
    ["echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1", "exit 3"],
)
def test_a_controller_that_does_not_answer_says_nothing(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol_says(tmp_path, monkeypatch, words)
    assert Guard("7", 0).verdict() == ""


def test_outside_of_a_job_there_is_nothing_to_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert guard_of_this_job() is None
