"""A process that dies is started again as another incarnation, within its policy."""

import json
import os
import signal

import pytest

from dynamoc.runtime.agent.supervisor import Restarts
from dynamoc.runtime.manifest import RestartPolicy

pytestmark = pytest.mark.integration


def test_a_killed_process_comes_back_as_the_next_incarnation(stage):
    run = stage.start(stage.actor("decode-0", "ready"), stage.actor("decode-1", "ready"))
    before = run.wait_ready()
    os.kill(before.processes["decode-0"].pid, signal.SIGKILL)
    after = run.wait(lambda s: s.state == "ready" and s.processes["decode-0"].incarnation == 1)
    assert after.processes["decode-0"].restarts == 1
    assert after.processes["decode-0"].pid != before.processes["decode-0"].pid
    assert after.processes["decode-1"] == before.processes["decode-1"]
    events = run.events("decode-0")
    assert [e.event for e in events] == ["starting", "ready", "exited", "restarting", "starting", "ready"]
    assert [e.incarnation for e in events] == [0, 0, 0, 0, 1, 1]
    assert events[2].signal == "SIGKILL" and events[2].status is None
    assert "degraded" not in {e.event for e in run.events()}  # a state, not an event
    assert (run.folder / "logs/decode-0-0.log").read_text().startswith("hello from decode-0 0")
    assert (run.folder / "logs/decode-0-1.log").read_text().startswith("hello from decode-0 1")
    evidence = (run.folder / "evidence/decode-0-0.txt").read_text()
    assert "killed by SIGKILL" in evidence and "hello from decode-0 0" in evidence
    assert run.end() == 0


def test_the_limit_of_restarts_fails_the_run_and_drains_the_rest(stage):
    policy = RestartPolicy(limit=2, window_s=60.0, backoff_s=0.01)
    mortal = stage.actor("decode-1", "ready", "fail=no weights", restart=policy)
    run = stage.start(stage.actor("decode-0", "ready"), mortal)
    assert run.agent.wait(20) == 1
    status = run.status()
    assert status.state == "failed"
    failed = status.processes["decode-1"]
    assert failed.state == "failed" and failed.incarnation == 2 and failed.restarts == 2
    assert "exited with status 3: no weights" in failed.reason
    assert failed.evidence == "evidence/decode-1-2.txt"
    assert "decode-1" in status.reason and "no weights" in run.agent.stderr.read()
    assert status.processes["decode-0"].state == "stopped"
    assert "stopping" in (run.folder / "logs/decode-0-0.log").read_text()
    assert run.pids() == set()


def test_a_start_that_fails_the_same_way_twice_is_not_tried_again(stage):
    policy = RestartPolicy(limit=5, window_s=60.0, backoff_s=0.01)
    words = ["print=torch.OutOfMemoryError: CUDA out of memory. Tried 3 GiB", "print=giving up on GPU 7", "exit=1"]
    run = stage.start(stage.actor("decode-0", *words, restart=policy))
    assert run.agent.wait(20) == 1
    failed = run.status().processes["decode-0"]

    assert failed.incarnation == 1
    assert "exited with status 1: a GPU is out of memory (torch.OutOfMemoryError" in failed.reason
    assert "failed the same way twice" in failed.reason
    assert "giving up on GPU 7" in (run.folder / failed.evidence).read_text()


def test_a_start_that_is_killed_says_nothing_of_the_next(stage):
    run = stage.start(stage.actor("decode-0", "sleep=60"))
    for incarnation in range(3):
        started = run.wait(
            lambda s, n=incarnation: s.processes["decode-0"].incarnation == n and s.processes["decode-0"].pid
        )
        os.kill(started.processes["decode-0"].pid, signal.SIGKILL)
    run.wait(lambda s: s.processes["decode-0"].restarts == 3)
    assert run.end() == 0


def test_an_exit_with_status_zero_is_a_death_too(stage):
    run = stage.start(stage.actor("decode-0", "exit=0", restart=RestartPolicy(limit=0)))
    assert run.agent.wait(20) == 1
    assert "exited with status 0" in run.status().reason


def test_a_process_that_is_not_ready_in_time_is_a_failed_start(stage):
    policy = RestartPolicy(limit=0)
    run = stage.start(stage.actor("decode-0", "progress=0.4", ready_timeout_s=0.6, restart=policy))
    assert run.agent.wait(20) == 1
    process = run.status().processes["decode-0"]
    assert "not ready within 0.6 s (was at: loading weights)" in process.reason
    assert [e.event for e in run.events("decode-0")] == ["starting", "progress", "exited", "failed"]
    assert run.events("decode-0")[1].fraction == 0.4


def test_a_second_try_that_succeeds_is_ready(stage):
    run = stage.start(stage.actor("decode-0", "once", "ready"))
    status = run.wait_ready()
    assert status.processes["decode-0"].incarnation == 1
    assert status.processes["decode-0"].reason == ""
    assert run.events("decode-0")[-1].details == {"loaded": 7}


def test_garbage_on_the_line_is_reported_and_kills_nobody(stage):
    run = stage.start(stage.actor("decode-0", "garbage", "ready"))
    run.wait_ready()
    assert run.end() == 0


def test_what_cannot_be_started_fails_the_run_with_the_reason(stage):
    run = stage.start(stage.actor("decode-0", "ready", gpus=(3,), env={}))
    run.wait_ready()
    assert run.end() == 0
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    try:
        run = stage.start(stage.actor("decode-0", "ready", gpus=(3,)), name="narrow")
        assert run.agent.wait(20) == 1
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    assert "needs GPU 3" in run.status().reason


def test_a_process_sees_little_of_the_agents_environment(stage, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    run = stage.start(stage.actor("decode-0", "environ", "ready", env={"COLOUR": "blue"}, gpus=(1,)))
    run.wait_ready()
    environ = json.loads((run.folder / "logs/decode-0-0.log").read_text().splitlines()[1])
    assert "SECRET_TOKEN" not in environ
    expected = {"OMP_NUM_THREADS": "1", "COLOUR": "blue", "CUDA_VISIBLE_DEVICES": "6", "DYNAMOC_NODE": "0"}
    assert expected.items() <= environ.items()
    assert environ["DYNAMOC_RUN_DIR"] == str(run.folder)


def test_delays_double_and_the_limit_slides_with_the_window():
    restarts = Restarts(RestartPolicy(limit=3, window_s=10.0, backoff_s=1.0))
    assert [restarts.next_delay(now) for now in (0.0, 1.0, 2.0, 3.0)] == [1.0, 2.0, 4.0, None]
    assert restarts.next_delay(10.5) == 4.0  # the first restart is out of the window
    assert Restarts(RestartPolicy(limit=99, backoff_s=8.0)).next_delay(0.0) == 8.0
    many = Restarts(RestartPolicy(limit=99, backoff_s=8.0))
    assert max(d for d in (many.next_delay(0.0) for _ in range(50)) if d) == 30.0
