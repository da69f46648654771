"""`dynamoc up` as a user runs it: real processes, simulated compute."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from free_ports import free_port_base
from pipelines import SMOLLM2
from stages import Run

pytestmark = pytest.mark.integration
needs_model = pytest.mark.skipif(not SMOLLM2.is_dir(), reason="needs the reference model: dynamoc model fetch")

SPEC = """\
dynamoc: 1
name: trial
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
defaults: {engine: mocker, device: cpu, block_size: 16, kv_blocks: 512}
components:
  frontend: {role: frontend, port: PORT}
  router: {role: router, policy: kv}
  prefill: {role: prefill, replicas: 1}
  decode: {role: decode, replicas: 1}
edges: [frontend -> router -> prefill -> decode]
"""


@pytest.fixture
def command(tmp_path):
    """The words of `dynamoc up` for a trial spec on free ports."""
    base = free_port_base()
    (tmp_path / "spec.yaml").write_text(SPEC.replace("PORT", str(base)))
    place = ["--runs-dir", str(tmp_path / "runs"), "--port-base", str(base + 8)]
    return [sys.executable, "-m", "dynamoc", "up", str(tmp_path / "spec.yaml"), *place]


@pytest.fixture
def folder_of(tmp_path):
    """The run folder, whose processes are all gone in the end."""
    yield lambda: (tmp_path / "runs" / "latest").resolve()
    for folder in (tmp_path / "runs").glob("trial-*"):
        for pid in Run(folder, None).pids():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def serving(command):
    """A `dynamoc up` that serves, and what it said until then."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        try:
            said = []
            while "Ctrl-C to stop" not in "".join(said[-1:]):
                line = up.stdout.readline()
                assert line, "".join(said)
                said.append(line)
            yield up, "".join(said)
        finally:
            up.kill()


def test_a_wrong_spec_is_shown_and_nothing_is_started(command, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(spec.read_text().replace("role: prefill", "role: prefil"))
    up = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert up.returncode == 1
    assert "error[D1" in up.stderr and "prefil" in up.stderr and "Traceback" not in up.stderr
    assert not (tmp_path / "runs").exists()


def test_a_taken_port_is_named_before_anything_starts(command, tmp_path, folder_of):
    port = int(re.search(r"port: (\d+)", (tmp_path / "spec.yaml").read_text())[1])
    with socket.create_server(("127.0.0.1", port)):
        up = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert up.returncode == 1
    assert f"error: port {port} (`http` of `frontend-0`) on 127.0.0.1 cannot be bound" in up.stdout
    assert Run(folder_of(), None).pids() == set()


@needs_model
@pytest.mark.parametrize(("nodes", "transport"), [(1, "shm"), (2, "tcp")])
def test_questions_are_answered_and_counted(command, folder_of, tmp_path, nodes, transport):
    (tmp_path / "cluster.yaml").write_text(f"name: c\nnodes: [{{name: n, count: {nodes}, cpus: 1, memory: 8 GiB}}]\n")
    asks = ["--ask", "What is a block?", "--ask", "What is a token?", "--max-tokens", "12"]
    words = [*command, *asks, "--cluster", str(tmp_path / "cluster.yaml")]
    up = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert up.returncode == 0, up.stdout + up.stderr
    first, second = (line.split() for line in up.stdout.splitlines() if re.match(r"\s*[12]\s+\d+\s+\d+\s+12\s", line))
    assert int(first[2]) == 0 and int(second[2]) > 100  # the system prompt, many blocks of it
    blocks = int(re.search(rf"prefill -> decode by {transport}\s+(\d+) blocks", up.stdout)[1])
    assert blocks > 8
    assert re.search(rf"blocks verified on arrival\s+{blocks}\s", up.stdout)
    assert re.search(r"checksum failures\s+0\s", up.stdout) and re.search(r"restarts\s+0\s", up.stdout)
    assert Run(folder_of(), None).pids() == set()


@needs_model
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_told_to_stop_and_drains(command, folder_of, number):
    with serving(command) as (up, said):
        url = re.search(r"ready\s+(http://\S+)/v1\s+serves SmolLM2-135M-Instruct", said)[1]
        with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as models:
            assert json.load(models)["data"][0]["id"] == "SmolLM2-135M-Instruct"
        assert "curl -s" in said
        pid = json.loads((folder_of() / "status.json").read_text())["processes"]["decode-0"]["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        line = ""
        while "decode-0: ready (incarnation 1)" not in line:
            line = up.stdout.readline()
            assert line and time.monotonic() < deadline
        up.send_signal(number)
        rest = up.stdout.read()
        assert up.wait(30) == 0
    assert "draining" in rest and "decode-0: stopped" in rest
    assert Run(folder_of(), None).pids() == set()


@needs_model
def test_a_killed_up_leaves_nothing(command, folder_of):
    with serving(command) as (up, _):
        folder = folder_of()
        assert len(Run(folder, None).pids()) >= 4
        up.kill()
    deadline = time.monotonic() + 15
    while Run(folder, None).pids() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert Run(folder, None).pids() == set()


@needs_model
def test_bars_on_a_real_terminal(command, folder_of):
    ours, theirs = pty.openpty()
    words = [*command, "--ask", "Hello?", "--max-tokens", "4"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as up:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the terminal is closed
                break
        assert up.wait(30) == 0, text.decode()
    os.close(ours)
    assert b"\x1b[" in text and "━".encode() in text and b"decode-0" in text
