"""However an agent ends, nothing of its node is left."""

import json
import os
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.integration


def stopped_at(run, name):
    """When the process began to stop, on the clock all processes share."""
    return float((run.folder / f"logs/{name}-0.log").read_text().split("stopping")[1].split()[0])


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_groups_stop_in_the_reverse_of_their_start_order(stage):
    run = stage.start(
        stage.actor("router-0", "ready", start_order=0),
        stage.actor("decode-0", "slow=0.3", "ready", start_order=1),
        stage.actor("decode-1", "slow=0.3", "ready", start_order=1),
        stage.actor("frontend-0", "slow=0.3", "ready", start_order=2),
    )
    run.wait_ready()
    assert run.end() == 0
    order = [e.process for e in run.events() if e.event == "stopped" and e.process]
    assert order[0] == "frontend-0" and order[-1] == "router-0"
    assert stopped_at(run, "frontend-0") + 0.3 <= stopped_at(run, "decode-0") <= stopped_at(run, "router-0")
    assert abs(stopped_at(run, "decode-0") - stopped_at(run, "decode-1")) < 0.25  # one group, together
    assert run.status().state == "stopped"
    assert all(p.pid is None and p.state == "stopped" for p in run.status().processes.values())


def test_interrupt_drains_as_well(stage):
    run = stage.start(stage.actor("decode-0", "ready"))
    run.wait_ready()
    assert run.end(signal.SIGINT) == 0
    assert "stopping" in (run.folder / "logs/decode-0-0.log").read_text()


def test_a_process_deaf_to_sigterm_is_killed_after_its_drain_time(stage):
    run = stage.start(stage.actor("decode-0", "deaf", "child", "ready", drain_timeout_s=0.5))
    run.wait_ready()
    begin = time.monotonic()
    assert run.end() == 0
    assert 0.5 <= time.monotonic() - begin < 20.0
    last = next(e for e in run.events("decode-0") if e.event == "exited")
    assert last.signal == "SIGKILL" and "not stopped 0.5 s after SIGTERM" in last.reason
    assert run.status().processes["decode-0"].reason == last.reason
    assert run.pids() == set()


def test_the_same_signal_again_hurries(stage):
    run = stage.start(stage.actor("decode-0", "deaf", "ready", drain_timeout_s=60.0))
    run.wait_ready()
    run.agent.send_signal(signal.SIGTERM)
    run.wait(lambda s: s.processes["decode-0"].state == "draining")
    begin = time.monotonic()
    assert run.end() == 0
    assert time.monotonic() - begin < 25.0


def test_an_interrupt_passed_on_as_sigterm_is_one_request(stage):
    run = stage.start(stage.actor("decode-0", "slow=0.5", "ready"))
    run.wait_ready()
    run.agent.send_signal(signal.SIGINT)
    assert run.end() == 0
    assert "stopping" in (run.folder / "logs/decode-0-0.log").read_text()


def test_a_signal_while_starting_or_waiting_to_restart_stops_at_once(stage):
    run = stage.start(
        stage.actor("decode-0"),  # never ready
        stage.actor("decode-1", "exit=1", restart={"limit": 5, "window_s": 60.0, "backoff_s": 30.0}),
    )
    run.wait(lambda s: s.processes["decode-1"].state == "restarting" and s.processes["decode-0"].pid)
    begin = time.monotonic()
    assert run.end() == 0
    assert time.monotonic() - begin < 25.0


def test_end_of_input_drains_where_asked(stage):
    run = stage.agent(stage.write(stage.actor("decode-0", "ready")), "--stop-on-eof")
    run.wait_ready()
    run.agent.stdin.close()
    assert run.agent.wait(20) == 0


@pytest.mark.parametrize("word", ["child", "daemon", "nameless"])
def test_what_a_dead_process_left_behind_is_gone_before_its_next_life(stage, word):
    run = stage.start(stage.actor("decode-0", word, "ready"), stage.actor("decode-1", word, "ready"))
    pid = run.wait_ready().processes["decode-0"].pid
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 1
    other = run.status().processes["decode-1"].pid
    others = subprocess.run(["ps", "-o", "pid=", "--ppid", str(other)], capture_output=True, text=True).stdout.split()
    os.kill(pid, signal.SIGKILL)
    run.wait(lambda s: s.processes["decode-0"].incarnation == 1)
    assert not alive(int(children[0]))
    assert alive(int(others[0]))  # another process's child is none of its business
    run.wait_ready()
    assert run.end() == 0
    assert not alive(int(others[0]))


@pytest.mark.parametrize("words", [["ready"], ["child", "daemon", "deaf", "ready"]])
def test_nothing_outlives_a_killed_agent(stage, words):
    run = stage.start(stage.actor("decode-0", *words), stage.actor("decode-1", *words))
    run.wait_ready()
    assert len(run.pids()) == 2 * (1 + words.count("child") + words.count("daemon"))
    run.agent.kill()
    deadline = time.monotonic() + 2.0
    while run.pids() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.pids() == set()


def test_two_runs_do_not_touch_each_other(stage):
    one = stage.start(stage.actor("decode-0", "daemon", "ready"), name="one")
    two = stage.start(stage.actor("decode-0", "daemon", "ready"), name="two")
    one.wait_ready()
    status = two.wait_ready()
    one.agent.kill()
    deadline = time.monotonic() + 2.0
    while one.pids() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert one.pids() == set() and len(two.pids()) == 2
    assert two.status() == status
    assert two.end() == 0


def test_status_is_whole_whenever_it_is_read(stage):
    words = [f"progress={i / 400}" for i in range(400)]
    run = stage.start(stage.actor("decode-0", "sleep=0.2", *words, "ready"), stage.actor("decode-1", *words, "ready"))
    reads = 0
    while run.agent.poll() is None:
        try:
            status = json.loads((run.folder / "status.json").read_text())
        except FileNotFoundError:
            continue
        reads += 1
        if status["state"] == "ready":
            break
    assert reads > 50
    assert run.end() == 0
    sequence = [event.seq for event in run.events()]
    assert sequence == list(range(1, len(sequence) + 1))
    assert 95 <= sum(e.event == "progress" for e in run.events("decode-0")) <= 101  # one per percent
