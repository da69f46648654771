"""The process beside an engine that is a program of its own: starts it, says when it serves, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Protocol

import uvloop

from dynamoc.runtime import process
from dynamoc.runtime.launch.command import Completion, LaunchError
from dynamoc.runtime.launch.ranks import Ranks
from dynamoc.runtime.manifest import Launch, PortRef
from dynamoc.runtime.process import Context
from dynamoc.runtime.served.front import FRONT_ERRORS, Front

PROBE_INTERVAL_S = 0.2
PROBE_DEADLINE_S = 5.0
HEALTHY = range(200, 300)

new_event_loop = uvloop.new_event_loop


class Engine(Protocol):
    """What is watched: one program, or this node's ranks of an MPI world."""

    async def started(self) -> None:
        """Until all of it lives."""
        ...

    async def wait(self) -> int:
        """Until it has ended; its exit status."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...


class Program:
    """The engine as a child of this process."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def started(self) -> None:
        """It lives since it was made."""

    async def wait(self) -> int:
        """A signal counts as shells count it."""
        status = await self._child.wait()
        return status if status >= 0 else 128 - status

    def terminate(self) -> None:
        """SIGTERM, to it alone: its own children are its to stop."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)


async def run(context: Context) -> int:
    """Until the engine ends, or until SIGTERM and its end; the exit status."""
    stop = asyncio.Event()
    process.stop_on_signals(asyncio.get_running_loop(), stop)
    context.notifier.watch(asyncio.get_running_loop(), stop)
    try:
        launch = _launch_of(context)
        front = Front(context, launch, stop)
        engine = Ranks(context) if launch.mpi else await _start(context, launch)
    except (OSError, LaunchError) as error:
        context.notifier.failed(str(error))
        return 1
    return await _watch(context, launch, engine, front, stop)


def _launch_of(context: Context) -> Launch:
    if context.spec.launch is None:
        raise LaunchError(f"`{context.spec.name}` has no launch in the plan")
    return context.spec.launch


async def _start(context: Context, launch: Launch) -> Program:
    completion = Completion(context.manifest, context.spec, context.endpoints, context.run_dir)
    command = completion.command(launch)
    child = await asyncio.create_subprocess_exec(*command.argv, env={**os.environ, **command.env})
    return Program(child)


async def _watch(context: Context, launch: Launch, engine: Engine, front: Front, stop: asyncio.Event) -> int:
    ended = asyncio.create_task(engine.wait())
    stopped = asyncio.create_task(stop.wait())
    opened = asyncio.create_task(_open(context, launch, engine, front))
    try:
        await asyncio.wait({ended, stopped, opened}, return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            opened.result()
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            front.failed(f"the engine ended with status {ended.result()}")
        opened.cancel()
        await asyncio.wait({opened})
        await front.close()
        if ended.done():
            context.notifier.failed(front.failure)
            return ended.result() or 1  # nobody had asked it to
        engine.terminate()
        await ended  # the agent's deadline for draining bounds this
    except FRONT_ERRORS as error:
        context.notifier.failed(str(error))
        return 1
    finally:
        for task in (ended, stopped, opened):
            task.cancel()
    if front.failure:
        context.notifier.failed(front.failure)
    return 1 if front.failure else 0


async def _open(context: Context, launch: Launch, engine: Engine, front: Front) -> None:
    """Ready once it lives; where it has a server, once `/health` says so and a worker stands in front of it."""
    await engine.started()
    if launch.serves is None:
        context.notifier.ready()
        return
    await _until_healthy(context, launch.serves)
    await front.open(launch.serves)


async def _until_healthy(context: Context, serves: PortRef) -> None:
    """The agent's deadline for starting bounds this."""
    context.notifier.progress(0.0, f"waiting for /health at port {serves.port}")
    while True:
        if await health(context.host, serves.port) in HEALTHY:
            return
        await asyncio.sleep(PROBE_INTERVAL_S)


async def health(host: str, port: int) -> int:
    """The status that `/health` answers with, 0 where nothing answers in time."""
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(PROBE_DEADLINE_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /health HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
                return int(line.split()[1])
            finally:
                writer.close()
    return 0
