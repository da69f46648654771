"""What an agent checks and writes before it starts anything."""

import json
import os
import socket

import pytest

from dynamoc.runtime.agent.life import GpuError, visible_gpus

pytestmark = pytest.mark.integration


def test_a_taken_port_is_named_with_its_process_and_holder(stage):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = stage.start(stage.actor("decode-0", "ready", ports={"plane": port}), stage.actor("decode-1", "ready"))
        assert run.agent.wait(20) == 1
    said = run.agent.stderr.read()
    assert f"port {port} (`plane` of `decode-0`) on 127.0.0.1 cannot be bound" in said
    assert f"(pid {os.getpid()}) listens on it" in said
    assert run.status().state == "failed" and str(port) in run.status().reason
    assert [e.event for e in run.events()] == ["starting", "failed"]  # nothing was started


def test_all_agents_write_the_same_endpoints(stage):
    specs = (
        stage.actor("decode-0", "ready", ports={"plane": 21001, "metrics": 21002}),
        stage.actor("decode-1", "ready", node=1, ports={"plane": 21001}),
    )
    folder = stage.write(*specs)
    run = stage.agent(folder)
    run.wait_ready()
    text = (folder / "endpoints.json").read_bytes()
    assert json.loads(text) == {
        "decode-0": {"host": "127.0.0.1", "ports": {"plane": 21001, "metrics": 21002}},
        "decode-1": {"host": "127.0.0.2", "ports": {"plane": 21001}},
    }
    other = stage.agent(folder, node=1)
    assert set(other.wait_ready().processes) == {"decode-1"}
    assert (folder / "endpoints.json").read_bytes() == text
    assert (folder / "status.node-1.json").exists() and (folder / "events.node-1.jsonl").exists()
    assert other.end() == 0
    assert run.status().state == "ready"
    assert run.end() == 0


def test_nodes_drain_in_step(stage):
    folder = stage.write(
        stage.actor("router-0", "ready", start_order=0),
        stage.actor("frontend-0", "slow=1.0", "ready", start_order=2, node=1),
    )
    run, other = stage.agent(folder), stage.agent(folder, node=1)
    run.wait_ready()
    other.wait_ready()
    run.agent.terminate()
    other.agent.terminate()
    assert run.agent.wait(20) == 0 and other.agent.wait(20) == 0
    router = next(e for e in run.events("router-0") if e.event == "draining")
    frontend = next(e for e in other.events("frontend-0") if e.event == "stopped")
    assert router.wall >= frontend.wall


def test_only_one_agent_may_run_a_node(stage):
    folder = stage.write(stage.actor("decode-0", "ready"))
    run = stage.agent(folder)
    run.wait_ready()
    second = stage.agent(folder)
    assert second.agent.wait(20) == 2
    assert "another agent runs node 0" in second.agent.stderr.read()
    assert run.status().state == "ready"
    assert run.end() == 0


def test_a_later_agent_goes_on_counting_incarnations_and_events(stage):
    folder = stage.write(stage.actor("decode-0", "ready"))
    first = stage.agent(folder)
    first.wait_ready()
    assert first.end() == 0
    second = stage.agent(folder)
    status = second.wait(lambda s: s.state == "ready" and s.agent_pid == second.agent.pid)
    assert status.processes["decode-0"].incarnation == 1
    assert second.end() == 0
    sequence = [event.seq for event in second.events()]
    assert sequence == list(range(1, len(sequence) + 1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hosts", "127.0.0.1,127.0.0.2"], "--hosts names 2 hosts, the plan has 1 nodes"),
        (["--node", "4"], "--node 4: the plan has nodes 0 to 0"),
        (["--run-dir", "/nonexistent"], "No such file"),
        (["--colour"], "unrecognized arguments"),
    ],
)
def test_wrong_use_is_said_and_exits_with_two(stage, words, said):
    run = stage.agent(stage.write(stage.actor("decode-0", "ready")), *words)
    assert run.agent.wait(20) == 2
    text = run.agent.stderr.read()
    assert said in text and "Traceback" not in text


def test_a_file_that_is_no_manifest_is_said(stage):
    folder = stage.write(stage.actor("decode-0", "ready"))
    (folder / "plan.json").write_text('{"version": 1}')
    run = stage.agent(folder)
    assert run.agent.wait(20) == 2
    assert "not a manifest" in run.agent.stderr.read()


def test_gpus_count_within_what_the_node_was_allotted(stage):
    spec = stage.actor("decode-0", gpus=(0, 2))
    assert visible_gpus(spec, None) == "0,2"
    assert visible_gpus(spec, "3,5,GPU-7") == "3,GPU-7"
    assert visible_gpus(stage.actor("router-0"), "3,5") == ""
    with pytest.raises(GpuError, match="needs GPU 2"):
        visible_gpus(spec, "3")
