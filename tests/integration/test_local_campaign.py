"""Campaigns on this machine with real processes: ended from the terminal in the middle, and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from free_ports import free_port_base
from pipelines import SMOLLM2

from dynamoc.launcher.campaign.owner import is_owned
from dynamoc.launcher.campaign.state import State
from dynamoc.launcher.campaign.store import Store
from dynamoc.launcher.results.verdict import judge

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]

CAMPAIGN = """dynamoc: 1
campaign: local
base:
  dynamoc: 1
  name: mockers
  model: {{ref: HuggingFaceTB/SmolLM2-135M-Instruct}}
  defaults: {{engine: mocker, device: cpu, context_length: 1024, kv_blocks: 256}}
  components:
    frontend: {{role: frontend, port: {port}}}
    router: {{role: router}}
    worker: {{role: aggregated, replicas: 2}}
  edges: [frontend -> router -> worker]
target: local
axes: {{defaults.block_size: [16, 32]}}
loads:
  - {{isl: 32, osl: 4, concurrency: 1, requests: 1, warmup_requests: 0}}
  - {{isl: 32, osl: 4, concurrency: 8, requests: 500}}
budget: {{at_once: 2}}
"""


@pytest.fixture(autouse=True)
def model() -> None:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder for the tokenizer: run `make model`")


def sweep(*words: str) -> list[str]:
    return [sys.executable, "-m", "dynamoc", "sweep", *words]


def until(holds: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(folder: Path) -> list[str]:
    """Command lines, of this machine, that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in words and path.parent.name != str(os.getpid()):
            found.append(words)
    return found


def test_ctrl_c_ends_every_deployment_and_resume_measures_the_rest(tmp_path: Path) -> None:
    """Both deployments are in the middle of a load: neither has failed, nothing is left running, nothing is lost."""
    file = tmp_path / "campaign.yaml"
    file.write_text(CAMPAIGN.format(port=free_port_base()))
    words = sweep(str(file), "--campaigns-dir", str(tmp_path / "c"))
    launcher = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: measured_in(tmp_path / "c") == 2)
        (folder,) = (tmp_path / "c").glob("[!.]*")
        launcher.send_signal(signal.SIGINT)
        out, _ = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
        launcher.wait()

    assert launcher.returncode == 130, out
    assert "goes on" in out
    assert not is_owned(folder)
    assert '"state": "interrupted"' in (folder / "status.json").read_text()
    until(lambda: not processes_of(folder), 30)
    state = State(Store(folder))
    assert (state.counts()["done"], state.counts()["failed"]) == (2, 0), "what was cut short has not failed"
    assert all(state.pending(deployment) for deployment in state.deployments)

    done = subprocess.run(sweep("resume", str(folder)), capture_output=True, text=True, timeout=180, check=False)
    rows = Store(folder).results.read()
    reasons = {row.labels["load"]: {reason.rule for reason in judge(row).reasons} for row in rows}

    assert done.returncode == 0, done.stdout + done.stderr
    assert len({row.point for row in rows}) == len(rows) == 4
    assert "idle-workers" in reasons["c1"], "its one request reached one of two workers"
    assert "idle-workers" not in reasons["c8"]


def measured_in(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("[!.]*/results.jsonl"))
