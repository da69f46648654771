"""A plan runs on this machine: one agent a node, started and stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from stages import Run

from dynamoc.launcher.local import LocalRun, RunFailedError
from dynamoc.launcher.runs import has_agent, manifest_of
from dynamoc.runtime.manifest import RestartPolicy, Role

pytestmark = pytest.mark.integration


def pids(folder):
    return Run(folder, None).pids()


def local(stage, *specs, name="run"):
    folder = stage.write(*specs, name=name)
    return LocalRun(folder, manifest_of(folder))


def until_it_fails(run):
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        run.check()
        time.sleep(0.01)


def two_nodes(stage, *words):
    return (
        stage.actor("decode-0", *words, "ready", start_order=1),
        stage.actor("frontend-0", "ready", node=1, role=Role.FRONTEND, ports={"http": 28123}, start_order=2),
    )


def test_both_nodes_start_serve_and_stop(stage):
    run = local(stage, *two_nodes(stage, "slow=0.3"))
    seen = []
    with run.running(lambda: seen.append([p.state for p in run.processes()])):
        run.wait_ready(lambda: None)
        assert run.is_ready()
        assert run.urls() == ("http://127.0.0.2:28123",)
        assert has_agent(run.folder, 0) and has_agent(run.folder, 1)
        assert len(pids(run.folder)) == 2
    assert pids(run.folder) == set()
    assert {p.state for p in run.processes()} == {"stopped"}
    assert any("draining" in states for states in seen)
    assert not has_agent(run.folder, 0)


def test_a_run_that_cannot_start_fails_with_the_evidence_and_stops_the_other_node(stage):
    broken = stage.actor("prefill-0", "fail=no such weights", node=1, restart=RestartPolicy(limit=1, backoff_s=0.01))
    run = local(stage, stage.actor("decode-0", "ready"), broken)
    with pytest.raises(RunFailedError) as failure, run.running(lambda: None):
        run.wait_ready(lambda: None)
    said = str(failure.value)
    assert "`prefill-0` exited with status 3: no such weights; it failed the same way twice" in said
    assert "evidence/prefill-0-1.txt" in said and "  | hello from prefill-0 1" in said
    assert pids(run.folder) == set()


def test_an_agent_that_cannot_even_start_is_quoted(stage):
    run = local(stage, stage.actor("decode-0", "ready"))
    (run.folder / "plan.json").write_text("{}")
    with pytest.raises(RunFailedError, match="not a manifest"), run.running(lambda: None):
        run.wait_ready(lambda: None)


def test_a_killed_agent_is_a_failed_run(stage):
    run = local(stage, *two_nodes(stage))
    with run.running(lambda: None):
        run.wait_ready(lambda: None)
        os.kill(run.statuses()[0].agent_pid, signal.SIGKILL)
        with pytest.raises(RunFailedError, match="agent of node 0 ended with status -9"):
            until_it_fails(run)
    assert pids(run.folder) == set()


def test_interrupts_while_stopping_hurry(stage):
    run = local(stage, stage.actor("decode-0", "deaf", "ready", drain_timeout_s=60.0))
    run.start()
    run.wait_ready(lambda: None)
    presses = iter([1])

    def tick():
        draining = all(p.state == "draining" for p in run.processes())
        if draining and next(presses, None):
            raise KeyboardInterrupt

    begin = time.monotonic()
    assert run.stop(tick)
    assert time.monotonic() - begin < 30.0
    assert pids(run.folder) == set()


def test_agents_drain_when_the_launcher_is_killed(stage):
    run = local(stage, *two_nodes(stage, "child"))
    script = (
        "import sys, time; from pathlib import Path\n"
        "from dynamoc.launcher.local import LocalRun; from dynamoc.launcher.runs import manifest_of\n"
        "folder = Path(sys.argv[1]); run = LocalRun(folder, manifest_of(folder))\n"
        "run.start(); run.wait_ready(lambda: None); print('ready', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout.readline() == "ready\n"
        assert len(pids(run.folder)) == 3
        launcher.kill()
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline and (has_agent(run.folder, 0) or has_agent(run.folder, 1)):
        time.sleep(0.02)
    assert pids(run.folder) == set()
    assert {status.state for status in run.statuses().values()} == {"stopped"}
