"""The router as the agent starts it: a process with a run folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from free_ports import free_port
from router_kit import KEY, Bench, plan

from dynamoc.runtime.manifest import Role, RouterSettings, encode_manifest
from dynamoc.runtime.plane.messages import Routed
from dynamoc.runtime.process import Endpoint

pytestmark = pytest.mark.integration


def run_folder(folder: Path, ports: dict[str, int]) -> None:
    (folder / "plan.json").write_text(encode_manifest(plan(ports, RouterSettings(), [Role.AGGREGATED])))
    endpoints = {"router-0": Endpoint("127.0.0.1", ports)}
    (folder / "endpoints.json").write_bytes(msgspec.json.encode(endpoints))
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(KEY)


@contextlib.asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, socket.socket]]:
    """A router process and our end of its line to the agent."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dynamoc.runtime", "router", "--run-dir", str(folder), "--name", "router-0",
            env=os.environ | {"DYNAMOC_NOTIFY_FD": str(theirs.fileno())}, pass_fds=[theirs.fileno()],
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        try:
            yield process, ours
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def notice(line: socket.socket) -> dict[str, object]:
    """The next thing the process tells its agent."""
    data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(line, 4096), 20)
    notice: dict[str, object] = json.loads(data.splitlines()[0])
    return notice


def test_it_starts_serves_and_goes_on_sigterm(tmp_path: Path) -> None:
    ports = {"plane": free_port(), "metrics": free_port()}
    run_folder(tmp_path, ports)

    async def main() -> None:
        async with started(tmp_path) as (process, line):
            assert await notice(line) == {"event": "ready"}
            bench = Bench(ports)
            await bench.worker("aggregated-0")
            frontend = await bench.frontend()
            answer = await frontend.route(1, list(range(32)))
            assert isinstance(answer, Routed)
            metrics = await bench.metrics()
            assert metrics['dynamoc_info{incarnation="0",process="router-0",role="router"}'] == 1
            assert metrics['dynamoc_router_workers{role="aggregated"}'] == 1
            process.send_signal(signal.SIGTERM)
            await frontend.lost()
            assert await asyncio.wait_for(process.wait(), 5) == 0
            await bench.close()

    asyncio.run(main())


def test_it_goes_when_its_agent_is_gone(tmp_path: Path) -> None:
    run_folder(tmp_path, {"plane": free_port()})

    async def main() -> None:
        async with started(tmp_path) as (process, line):
            assert await notice(line) == {"event": "ready"}
            line.close()
            assert await asyncio.wait_for(process.wait(), 5) == 0

    asyncio.run(main())


def test_peers_of_a_killed_router_find_the_next_one(tmp_path: Path) -> None:
    ports = {"plane": free_port()}
    run_folder(tmp_path, ports)

    async def main() -> None:
        bench = Bench(ports)
        for _ in range(2):
            async with started(tmp_path) as (process, line):
                assert await notice(line) == {"event": "ready"}
                await bench.worker("aggregated-0")
                frontend = await bench.frontend()
                assert isinstance(await frontend.route(1, list(range(32))), Routed)
                process.kill()
                await frontend.lost(2)
        await bench.close()

    asyncio.run(main())


def test_a_port_in_use_is_told_to_the_agent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run_folder(tmp_path, {"plane": taken.getsockname()[1]})

        async def main() -> None:
            async with started(tmp_path) as (process, line):
                said = await notice(line)
                assert said["event"] == "failed"
                assert "in use" in str(said["reason"])
                assert await asyncio.wait_for(process.wait(), 10) == 1
                assert process.stderr is not None
                assert b"Traceback" not in await process.stderr.read()

        asyncio.run(main())
