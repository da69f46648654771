"""The router process: listens, decides, and goes when told to."""

from __future__ import annotations

import asyncio
import logging
from random import Random

import uvloop

from dynamoc.runtime import process
from dynamoc.runtime.manifest import RouterSettings
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.plane.connection import PlaneServer, listen
from dynamoc.runtime.process import Context
from dynamoc.runtime.router.service import Service

log = logging.getLogger(__name__)

GOODBYE_S = 1.0
"""How long peers have to read their last answers."""

new_event_loop = uvloop.new_event_loop


async def run(context: Context) -> int:
    """Serve until SIGTERM or until the agent is gone; the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    process.stop_on_signals(loop, stop)
    context.notifier.watch(loop, stop)
    metrics = Metrics()
    try:
        service = Service(context.manifest, context.spec.router or RouterSettings(), metrics, Random())  # noqa: S311
        server = await _listen(context, service, metrics)
    except (OSError, ValueError) as error:
        log.critical("cannot start: %s", error)
        context.notifier.failed(str(error))
        return 1
    try:
        context.notifier.ready()
        await stop.wait()
    finally:
        await server.close()
        await service.stop(GOODBYE_S)
        await asyncio.to_thread(metrics.close)
    return 0


async def _listen(context: Context, service: Service, metrics: Metrics) -> PlaneServer:
    identity = context.identity
    metrics.gauge("dynamoc_info").labels(identity.name, identity.role, str(identity.incarnation)).set(1)
    if "metrics" in context.spec.ports:
        metrics.serve(*context.endpoint(identity.name, "metrics"))
    try:
        return await listen(*context.endpoint(identity.name, "plane"), identity, context.key, service)
    except OSError:
        metrics.close()
        raise
