"""`dynamoc status` and `dynamoc logs` read a real run's folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from dynamoc.launcher.cli import root
from dynamoc.runtime.manifest import RestartPolicy

pytestmark = pytest.mark.integration


@pytest.fixture
def dynamoc(stage):
    """The command line, with the stage's folder as the place of runs."""

    def call(*words):
        return CliRunner().invoke(root, [*words, "--runs-dir", str(stage.folder)])

    return call


@pytest.fixture
def run(stage):
    run = stage.start(stage.actor("decode-0", "ready"), stage.actor("decode-1", "ready"))
    (stage.folder / "latest").symlink_to("run")
    run.wait_ready()
    return run


def test_status_of_a_run_that_is_well(run, dynamoc):
    shown = dynamoc("status")
    assert shown.exit_code == 0, shown.output
    assert "node 0: ready" in shown.output and "decode-1" in shown.output
    record = json.loads(dynamoc("status", "--format", "json").output)
    assert record["nodes"][0]["processes"]["decode-0"]["state"] == "ready" and record["lost_agents"] == []


def test_status_tells_a_lost_agent_from_a_living_one(run, dynamoc):
    run.agent.kill()
    run.agent.wait()
    shown = dynamoc("status")
    assert shown.exit_code == 1
    assert "the agent is gone, last seen ready" in shown.output


def test_status_of_a_failed_run(stage, dynamoc):
    run = stage.start(stage.actor("decode-0", "fail=no weights", restart=RestartPolicy(limit=0)))
    run.agent.wait(20)
    shown = dynamoc("status", "run")
    assert shown.exit_code == 1
    assert "no weights" in shown.output


def test_no_run_is_said(dynamoc):
    for command in ("status", "logs"):
        shown = dynamoc(command, "nothing")
        assert shown.exit_code == 1 and "no run `nothing`" in shown.output


def test_logs_of_all_and_of_one(run, dynamoc):
    assert dynamoc("logs").output.splitlines() == [
        "decode-0 | hello from decode-0 0",
        "decode-1 | hello from decode-1 0",
    ]
    assert dynamoc("logs", "decode-1").output == "hello from decode-1 0\n"
    assert dynamoc("logs", "run", "decode-1", "-n", "0").output == ""
    wrong = dynamoc("logs", "run", "decode-7")
    assert wrong.exit_code == 1 and "there are decode-0, decode-1" in wrong.output


def test_logs_show_the_last_incarnation_unless_asked_for_all(run, dynamoc):
    os.kill(run.status().processes["decode-0"].pid, signal.SIGKILL)
    run.wait(lambda s: s.state == "ready" and s.processes["decode-0"].incarnation == 1)
    assert dynamoc("logs", "decode-0").output == "hello from decode-0 1\n"
    assert dynamoc("logs", "decode-0", "--all").output == "hello from decode-0 0\nhello from decode-0 1\n"


def test_following_goes_on_into_the_next_incarnation_and_ends_with_the_run(run, stage):
    command = [sys.executable, "-m", "dynamoc", "logs", "-f", "decode-0", "--runs-dir", str(stage.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as logs:
        assert logs.stdout.readline() == "hello from decode-0 0\n"
        os.kill(run.status().processes["decode-0"].pid, signal.SIGKILL)
        assert logs.stdout.readline() == "hello from decode-0 1\n"
        assert run.end() == 0
        assert logs.stdout.readline().startswith("stopping")
        assert logs.wait(20) == 0
