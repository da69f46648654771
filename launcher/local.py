"""Runs a plan on this machine: one agent per node of the plan, each on a loopback address of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dynamoc.launcher.runs import statuses_of
from dynamoc.runtime.agent.record import ProcessStatus, RunStatus, State
from dynamoc.runtime.manifest import Manifest, Role

POLL_S = 0.05
STOP_MARGIN_S = 15.0
EVIDENCE_LINES = 15


class RunFailedError(Exception):
    """The run did not start or did not last; the message shows the evidence."""


class LocalRun:
    """The agents of one run folder. `start` once, `stop` always; agents drain by themselves if we die.

    Runs of different `network` (0 to 255) may have the same ports at the same time.
    """

    def __init__(self, folder: Path, manifest: Manifest, network: int = 0) -> None:
        self.folder = folder
        self.manifest = manifest
        self.hosts = tuple(f"127.0.{network}.{1 + node}" for node in range(manifest.nodes))
        self._agents: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start every agent; what happens then is in `statuses`."""
        (self.folder / "logs").mkdir(exist_ok=True)
        for node in sorted({process.node for process in self.manifest.processes}):
            words = ["agent", "--run-dir", str(self.folder), "--node", str(node), "--hosts", ",".join(self.hosts)]
            with self._log(node).open("ab") as log:
                self._agents[node] = subprocess.Popen(
                    [sys.executable, "-m", "dynamoc.runtime", *words, "--stop-on-eof"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for us alone: we drain them in order
                )

    def statuses(self) -> dict[int, RunStatus]:
        """What each agent wrote last."""
        return statuses_of(self.folder, self.manifest)

    def processes(self) -> list[ProcessStatus]:
        """All processes in plan order, as far as agents spoke of them."""
        known = {name: p for status in self.statuses().values() for name, p in status.processes.items()}
        return [known[spec.name] for spec in self.manifest.processes if spec.name in known]

    def is_ready(self) -> bool:
        """Whether every process of every node does its work."""
        processes = self.processes()
        complete = len(processes) == len(self.manifest.processes)
        return complete and all(process.state is State.READY for process in processes)

    def check(self) -> None:
        """RunFailedError if an agent ended."""
        for node, agent in self._agents.items():
            if agent.poll() is not None:
                raise RunFailedError(self._failure(node, agent.returncode))

    def wait_ready(self, tick: Callable[[], None]) -> None:
        """Until everything is ready; each process has its own ready timeout, so this ends."""
        while not self.is_ready():
            self.check()
            tick()
            time.sleep(POLL_S)
        tick()

    def stop(self, tick: Callable[[], None]) -> bool:
        """Drain every agent; Ctrl-C meanwhile hurries them. False if one had to be killed or failed."""
        by_order = {p.start_order: p.drain_timeout_s for p in self.manifest.processes}
        deadline = time.monotonic() + sum(by_order.values()) + STOP_MARGIN_S
        self._signal(signal.SIGTERM)
        while any(agent.poll() is None for agent in self._agents.values()):
            try:
                if time.monotonic() > deadline:
                    self._signal(signal.SIGKILL)
                tick()
                time.sleep(POLL_S)
            except KeyboardInterrupt:
                self._signal(signal.SIGTERM)
        tick()
        for agent in self._agents.values():
            assert agent.stdin is not None
            agent.stdin.close()
        return all(agent.returncode == 0 for agent in self._agents.values())

    @contextlib.contextmanager
    def running(self, tick: Callable[[], None]) -> Iterator[None]:
        """Start, and stop however the block ends."""
        try:
            self.start()
            yield
        finally:
            self.stop(tick)

    def urls(self) -> tuple[str, ...]:
        """Where the frontends answer."""
        frontends = self.manifest.of_role(Role.FRONTEND)
        return tuple(f"http://{self.hosts[f.node]}:{f.ports['http']}" for f in frontends)

    def _log(self, node: int) -> Path:
        return self.folder / "logs" / f"agent-{node}.log"

    def _signal(self, number: signal.Signals) -> None:
        for agent in self._agents.values():
            if agent.poll() is None:
                agent.send_signal(number)

    def _failure(self, node: int, returncode: int) -> str:
        """What the agent said, and the end of the evidence it kept."""
        status = self.statuses().get(node)
        if status is None or not status.reason:
            said = self._log(node).read_text(errors="replace").strip()
            return f"the agent of node {node} ended with status {returncode}\n{said}"
        words = [status.reason]
        failed = [p for p in status.processes.values() if p.state is State.FAILED and p.evidence]
        for number, process in enumerate(sorted(failed, key=lambda p: p.since)):
            path = self.folder / process.evidence
            words.append(f"evidence: {path}")
            if number == 0:  # the others failed alike, or because of it
                words += [f"  | {line}" for line in path.read_text(errors="replace").splitlines()[-EVIDENCE_LINES:]]
        return "\n".join(words)
