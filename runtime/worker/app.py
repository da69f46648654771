"""The worker process: loads its engine, finds its peers, serves, and drains when told to."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import uvloop

from dynamoc.runtime import process
from dynamoc.runtime.engines.generator import capacity_of
from dynamoc.runtime.engines.protocol import Engine
from dynamoc.runtime.engines.registry import make_engine
from dynamoc.runtime.process import Context
from dynamoc.runtime.worker.worker import Worker

log = logging.getLogger(__name__)

new_event_loop = uvloop.new_event_loop


async def run(context: Context) -> int:
    """Serve until SIGTERM, until the agent is gone, or until the engine fails; the exit status."""
    stop = asyncio.Event()
    process.stop_on_signals(asyncio.get_running_loop(), stop)
    context.notifier.watch(asyncio.get_running_loop(), stop)
    try:
        engine = await _load(context, stop)
        return 0 if engine is None else await _serve(context, engine, stop)
    except (OSError, ValueError, RuntimeError) as error:
        log.critical("%s", error)
        context.notifier.failed(str(error))
        return 1


async def _load(context: Context, stop: asyncio.Event) -> Engine | None:
    """The loaded engine; None if the process was told to stop meanwhile."""
    if context.spec.worker is None:
        raise ValueError(f"`{context.spec.name}` has no worker settings in the plan")
    loop = asyncio.get_running_loop()
    engine = make_engine(context.spec.worker, context.model_folder(), context.manifest.model.ref)

    def progress(fraction: float, what: str) -> None:
        loop.call_soon_threadsafe(context.notifier.progress, fraction, what)

    loading = _in_daemon(lambda: engine.load(progress))
    stopping = loop.create_task(_wait(stop))
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set():
        return None
    loading.result()
    return engine


async def _serve(context: Context, engine: Engine, stop: asyncio.Event) -> int:
    worker = Worker(context, engine, capacity_of(engine, context.manifest.model.ref), stop, exchange=engine)
    try:
        await worker.start()
        await stop.wait()
        await worker.drain(context.spec.drain_timeout_s)
    finally:
        await worker.close()
        await asyncio.to_thread(engine.stop)
    if worker.failure:
        context.notifier.failed(worker.failure)
    return 1 if worker.failure else 0


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


def _in_daemon(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def body() -> None:
        error: Exception | None = None
        try:
            work()
        except Exception as raised:  # noqa: BLE001  (whoever waits gets it)
            error = raised
        try:
            loop.call_soon_threadsafe(settle, error)
        except RuntimeError:  # the loop ended first: nobody waits for the outcome
            log.debug("the process ended while it was loading")

    threading.Thread(target=body, name="load", daemon=True).start()
    return done
