"""Runs of small real processes under a real agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dynamoc.runtime.agent.record import Event, RunStatus, node_file, read_events, read_status
from dynamoc.runtime.manifest import Manifest, ModelRef, ProcessSpec, RestartPolicy, Role, encode_manifest

ACTOR = textwrap.dedent('''
    """Does what its words say, in order; then waits for SIGTERM."""
    import json, os, signal, socket, subprocess, sys, time
    line = socket.socket(fileno=int(os.environ["DYNAMOC_NOTIFY_FD"]))
    say = lambda event, **fields: line.sendall(json.dumps({"event": event, **fields}).encode() + b"\\n")
    stop = lambda *_: (print("stopping", time.monotonic(), flush=True), sys.exit(0))
    signal.signal(signal.SIGTERM, stop)
    print("hello from", os.environ["DYNAMOC_PROCESS"], os.environ["DYNAMOC_INCARNATION"], flush=True)
    SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
    for word in sys.argv[1 : sys.argv.index("--run-dir")]:
        what, _, value = word.partition("=")
        if what == "progress": say("progress", fraction=float(value), what="loading weights")
        elif what == "sleep": time.sleep(float(value))
        elif what == "ready": say("ready", loaded=7)
        elif what == "print": print(value, flush=True)
        elif what == "exit": sys.exit(int(value))
        elif what == "fail": say("failed", reason=value); sys.exit(3)
        elif what == "garbage": line.sendall(b"no json\\n")
        elif what == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif what == "slow": signal.signal(signal.SIGTERM, lambda *_, s=float(value): (time.sleep(s), stop()))
        elif what == "once" and os.environ["DYNAMOC_INCARNATION"] == "0": sys.exit(5)
        elif what == "child": subprocess.Popen(SLEEP)
        elif what == "daemon": subprocess.Popen(SLEEP, start_new_session=True)
        elif what == "nameless": subprocess.Popen(SLEEP, env={})
        elif what == "listen":
            server = socket.create_server((value.split(":")[0], int(value.split(":")[1])))
        elif what == "environ": print(json.dumps(dict(os.environ)), flush=True)
    while True:
        time.sleep(60)
''')


@dataclass
class Run:
    """A run folder and the agent of one of its nodes."""

    folder: Path
    agent: subprocess.Popen[str]
    node: int = 0

    def status(self) -> RunStatus:
        status = read_status(self.folder, self.node)
        assert status is not None
        return status

    def events(self, name: str = "") -> list[Event]:
        events = list(read_events(node_file(self.folder, "events.jsonl", self.node)))
        return [event for event in events if not name or event.process == name]

    def wait(self, told: Callable[[RunStatus], object], limit_s: float = 20.0) -> RunStatus:
        """Until the status says so."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            status = read_status(self.folder, self.node)
            if status is not None and told(status):
                return status
            if self.agent.poll() is not None:
                raise AssertionError(f"the agent ended: {self.agent.stderr and self.agent.stderr.read()}\n{status}")
            time.sleep(0.01)
        raise AssertionError(f"not within {limit_s} s: {read_status(self.folder, self.node)}")

    def wait_ready(self) -> RunStatus:
        return self.wait(lambda s: s.state == "ready")

    def end(self, number: int = signal.SIGTERM, limit_s: float = 20.0) -> int:
        self.agent.send_signal(number)
        return self.agent.wait(limit_s)

    def pids(self) -> set[int]:
        """Every living process that was started for this run, however deep."""
        mark = f"DYNAMOC_RUN_DIR={self.folder}".encode()
        found = set()
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in entry.read_bytes().split(b"\0"):
                    found.add(int(entry.parent.name))
            except OSError:
                continue
        return found


@dataclass
class Stage:
    """Makes runs below one folder, and ends them."""

    folder: Path
    runs: list[Run] = field(default_factory=list)

    def actor(self, name: str, *words: str, **fields: object) -> ProcessSpec:
        script = self.folder / "actor.py"
        script.write_text(ACTOR)
        given: dict[str, object] = {
            "component": name.partition("-")[0],
            "role": Role.DECODE,
            "replica": 0,
            "node": 0,
            "argv": (str(script), *words),
            "ready_timeout_s": 20.0,
            "drain_timeout_s": 5.0,
            "restart": RestartPolicy(limit=3, window_s=60.0, backoff_s=0.02),
        }
        return ProcessSpec(name=name, **{**given, **fields})  # type: ignore[arg-type]

    def write(self, *specs: ProcessSpec, name: str = "run") -> Path:
        folder = self.folder / name
        folder.mkdir()
        manifest = Manifest(
            version=1,
            name=name,
            plan_hash="0",
            model=ModelRef(ref="none", served_name="none"),
            nodes=1 + max(spec.node for spec in specs),
            processes=specs,
        )
        (folder / "plan.json").write_text(encode_manifest(manifest))
        return folder

    def agent(self, folder: Path, *words: str, node: int = 0) -> Run:
        command = [sys.executable, "-m", "dynamoc.runtime", "agent", "--run-dir", str(folder), "--node", str(node)]
        pipe = subprocess.PIPE
        agent = subprocess.Popen([*command, *words], stdin=pipe, stderr=pipe, text=True, start_new_session=True)
        self.runs.append(Run(folder, agent, node))
        return self.runs[-1]

    def start(self, *specs: ProcessSpec, name: str = "run") -> Run:
        return self.agent(self.write(*specs, name=name))

    def clear(self) -> None:
        for run in self.runs:
            run.agent.kill()
            run.agent.wait()
            for stream in (run.agent.stdin, run.agent.stderr):
                assert stream is not None
                stream.close()
            for pid in run.pids():
                os.kill(pid, signal.SIGKILL)
