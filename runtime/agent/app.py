"""`python -m dynamoc.runtime agent`: runs one node's part of a plan."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from dynamoc.runtime import environment
from dynamoc.runtime.agent.beat import silence
from dynamoc.runtime.agent.drain import stop_in_order
from dynamoc.runtime.agent.life import Home, Life, Said
from dynamoc.runtime.agent.places import PortTakenError, check_ports, default_hosts, write_endpoints
from dynamoc.runtime.agent.reaper import Reaper
from dynamoc.runtime.agent.record import ProcessStatus, Record, RunStatus, State, node_file, read_status
from dynamoc.runtime.agent.supervisor import ProcessError, Supervisor
from dynamoc.runtime.manifest import Manifest, ManifestError, ProcessSpec, read_manifest
from dynamoc.runtime.ports import shifted

WARDEN_LIMIT_S = 12.0


class RunError(Exception):
    """The run cannot go on; the message is for the user."""


class UsageError(Exception):
    """The agent was started wrongly."""


def main(argv: Sequence[str]) -> int:
    """0 after a drain that was asked for, 1 if the run failed, 2 if the agent was started wrongly."""
    try:
        options = _options(argv)
        manifest = shifted(read_manifest(options.run_dir / "plan.json"), options.port_offset)
        hosts = _hosts(options, manifest)
        with _lock(options.run_dir, options.node):
            return asyncio.run(_run(options, manifest, hosts))
    except (UsageError, ManifestError, OSError, msgspec.MsgspecError) as error:
        print(f"dynamoc agent: {error}", file=sys.stderr)
        return 2


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dynamoc.runtime agent")
    parser.add_argument("--run-dir", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--node", type=int, required=True, help="index of this node in the plan")
    parser.add_argument("--hosts", default="", help="address of every node of the plan, in order, by commas")
    parser.add_argument("--port-offset", type=int, default=0, help="how far the run turned the plan's ports")
    parser.add_argument("--stop-on-eof", action="store_true", help="drain when standard input ends")
    parser.add_argument("--stop-on-silence", type=float, metavar="SECONDS", help="drain when `beat` of the run is old")
    return parser.parse_args(argv)


def _hosts(options: argparse.Namespace, manifest: Manifest) -> tuple[str, ...]:
    hosts = tuple(options.hosts.split(",")) if options.hosts else default_hosts(manifest.nodes)
    if len(hosts) != manifest.nodes or not all(hosts):
        raise UsageError(f"--hosts names {len(hosts)} hosts, the plan has {manifest.nodes} nodes")
    if not 0 <= options.node < manifest.nodes:
        raise UsageError(f"--node {options.node}: the plan has nodes 0 to {manifest.nodes - 1}")
    if not manifest.on_node(options.node):
        raise UsageError(f"--node {options.node}: the plan has no process there")
    return hosts


@contextlib.contextmanager
def _lock(run_dir: Path, node: int) -> Iterator[None]:
    """Hold the node's lock; the kernel lets go of it however the agent ends."""
    path = node_file(run_dir, "agent.lock", node)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another agent runs node {node} of {run_dir} (it holds {path.name})") from None
        yield


async def _run(options: argparse.Namespace, manifest: Manifest, hosts: tuple[str, ...]) -> int:
    run_dir, node = options.run_dir, options.node
    before = read_status(run_dir, node)
    record = Record(run_dir, _first_status(manifest, node, hosts, before))
    record.run("starting", State.STARTING)
    try:
        check_ports(manifest, node, hosts[node])
        write_endpoints(run_dir, manifest, hosts)
        home = Home(run_dir, node, os.environ, options.port_offset)
        await Agent(home, manifest, record, before).run(options)
    except (RunError, PortTakenError) as failure:
        record.run("failed", State.FAILED, str(failure))
        print(f"dynamoc agent: {failure}", file=sys.stderr)
        return 1
    else:
        record.run("stopped", State.STOPPED)
        return 0
    finally:
        record.close()


def _first_status(manifest: Manifest, node: int, hosts: Sequence[str], before: RunStatus | None) -> RunStatus:
    """Everything waits. The count of events goes on where an earlier agent of this folder left it."""
    now = time.time()
    processes = {
        spec.name: ProcessStatus(
            name=spec.name,
            component=spec.component,
            role=spec.role,
            replica=spec.replica,
            state=State.WAITING,
            since=now,
            host=hosts[node],
            ports=spec.ports,
        )
        for spec in manifest.on_node(node)
    }
    return RunStatus(
        name=manifest.name,
        plan_hash=manifest.plan_hash,
        node=node,
        state=State.STARTING,
        since=now,
        agent_pid=os.getpid(),
        processes=processes,
        seq=before.seq if before else 0,
        launch=environment.read("DYNAMOC_LAUNCH"),
    )


class Agent:
    """All processes of one node, from the first start to the last exit."""

    def __init__(self, home: Home, manifest: Manifest, record: Record, before: RunStatus | None) -> None:
        self._record = record
        self._run_dir = home.run_dir
        self._home = home
        self._reaper = Reaper(asyncio.get_running_loop())
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._heard: set[int] = set()
        self._supervisors = tuple(
            Supervisor(spec, _next_incarnation(before, spec.name), self._launch, record, home.run_dir)
            for spec in manifest.on_node(home.node)
        )

    async def run(self, options: argparse.Namespace) -> None:
        """Until told to stop; RunError if a process is beyond its restart policy. Nothing is left afterwards."""
        self._listen(options.stop_on_eof)
        async with self._warden(), self._hark(options.stop_on_silence):
            stop = asyncio.create_task(self._stop.wait())
            lives = [asyncio.create_task(s.run(), name=s.spec.name) for s in self._supervisors]
            await asyncio.wait({stop, *lives}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            self._record.run("draining", State.DRAINING)
            await stop_in_order(self._supervisors, lives, self._hurry, self._run_dir, self._record.status.node)
        for task in lives:
            error = task.exception()
            if error is not None:
                if isinstance(error, ProcessError):
                    raise RunError(str(error)) from error
                raise error

    def _launch(self, spec: ProcessSpec, incarnation: int, hear: Callable[[Said], None]) -> Life:
        return Life(spec, incarnation, self._home, self._reaper, hear)

    def _listen(self, stop_on_eof: bool) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked, number)
        if stop_on_eof:
            loop.add_reader(0, self._read_input)

    def _asked(self, number: int) -> None:
        """Drain; the same signal again: hurry. A Ctrl-C that a script passes on as SIGTERM is one request."""
        (self._hurry if number in self._heard else self._stop).set()
        self._heard.add(number)

    def _read_input(self) -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self._stop.set()

    @contextlib.asynccontextmanager
    async def _hark(self, limit_s: float | None) -> AsyncIterator[None]:
        """Drain when nobody is heard of any more."""
        task = asyncio.create_task(self._until_silence(limit_s)) if limit_s is not None else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _until_silence(self, limit_s: float) -> None:
        await silence(self._run_dir, limit_s)
        print(f"dynamoc agent: whoever started the run has not been heard of for {limit_s:g} s", file=sys.stderr)
        self._stop.set()

    @contextlib.asynccontextmanager
    async def _warden(self) -> AsyncIterator[None]:
        """Beside us runs a process that ends our children should we be killed; it goes when we are done."""
        pid, line = _start_warden(self._home)
        gone = self._reaper.watch(pid)
        try:
            yield
        finally:
            os.close(line)
            await asyncio.wait({gone}, timeout=WARDEN_LIMIT_S)
        if not gone.done() or gone.result().status != 0:
            raise RunError("the warden could not end every process of the run")


def _start_warden(home: Home) -> tuple[int, int]:
    """Its pid, and our end of the line it listens to."""
    theirs, ours = os.pipe()
    words = [sys.executable, "-m", "dynamoc.runtime.agent.warden", *(f"{k}={v}" for k, v in home.marks.items())]
    actions = [(os.POSIX_SPAWN_DUP2, theirs, 0)]
    pid = os.posix_spawn(words[0], words, dict(os.environ), file_actions=actions, setsid=True)
    os.close(theirs)
    return pid, ours


def _next_incarnation(before: RunStatus | None, name: str) -> int:
    """A later agent goes on counting: nobody must take its processes for those of an earlier one."""
    known = before.processes.get(name) if before else None
    return 0 if known is None or known.state is State.WAITING else known.incarnation + 1
