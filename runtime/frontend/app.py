"""The frontend process: binds HTTP, keeps the planes, drains on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Awaitable, Iterator

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from dynamoc.runtime import process
from dynamoc.runtime.frontend.answers import Answer, ChatAnswer, CompletionAnswer, Head
from dynamoc.runtime.frontend.endpoint import Endpoint, Gate
from dynamoc.runtime.frontend.generation import Backend
from dynamoc.runtime.frontend.health import Health, cold_routes
from dynamoc.runtime.frontend.instruments import Instruments
from dynamoc.runtime.frontend.job import Job, Model
from dynamoc.runtime.frontend.router_client import RouterClient
from dynamoc.runtime.frontend.template import TemplateError, load_template
from dynamoc.runtime.frontend.tokenizer import TokenizerError, load_tokenizer
from dynamoc.runtime.frontend.worker_client import WorkerPool
from dynamoc.runtime.manifest import FrontendSettings, Manifest, Role
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.process import Context

BACKLOG = 2048
KEEP_ALIVE_S = 60

# The end of the drain time, in which what is cut off still tells its client.
FAREWELL_S = 1.0

log = logging.getLogger("dynamoc.frontend")

new_event_loop = uvloop.new_event_loop


class StartError(Exception):
    """The frontend cannot do its work as planned."""


async def run(context: Context) -> int:
    """Serve until a signal or the agent's end; the exit status."""
    try:
        model = load_model(context)
        listener = _bind(context)
    except (StartError, TokenizerError, TemplateError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400  the sentence is for an operator, who has no use for a traceback
        context.notifier.failed(str(error))
        return 1
    settings = context.spec.frontend or FrontendSettings()
    router_process = context.manifest.of_role(Role.ROUTER)[0].name
    router = RouterClient(
        *context.endpoint(router_process, "plane"), context.identity, context.key, settings.router_wait_s
    )
    workers = WorkerPool(context.identity, context.key)
    metrics = Metrics()
    gate = Gate(settings.max_concurrent_requests, metrics.gauge("dynamoc_frontend_inflight_requests"))
    app = make_app(context.manifest, model, settings, router, workers, gate, metrics)
    metrics.gauge("dynamoc_info").labels(context.spec.name, context.spec.role, str(context.incarnation)).set(1)
    dialling = asyncio.create_task(router.keep_connected())
    try:
        await _serve(context, app, listener, router, gate)
    finally:
        dialling.cancel()
        await workers.close()
        await asyncio.gather(dialling, return_exceptions=True)
        model.tokenizer.close()
    return 0


def load_model(context: Context) -> Model:
    """Tokenizer and template of the planned model, and how long its requests may be."""
    decoders = (*context.manifest.of_role(Role.DECODE), *context.manifest.of_role(Role.AGGREGATED))
    lengths = [decoder.worker.context_length for decoder in decoders if decoder.worker is not None]
    if not lengths or not context.manifest.of_role(Role.ROUTER):
        raise StartError("the plan has no router or no worker that decodes")
    folder = context.model_folder()
    return Model(
        name=context.manifest.model.served_name,
        tokenizer=load_tokenizer(folder),
        template=load_template(folder),
        context_length=max(lengths),
    )


def make_app(
    manifest: Manifest,
    model: Model,
    settings: FrontendSettings,
    router: RouterClient,
    workers: WorkerPool,
    gate: Gate,
    metrics: Metrics,
) -> ASGIApp:
    """All routes: the hot ones by a dictionary, the others by Starlette."""
    instruments = Instruments(metrics)
    backend = Backend(router, workers, instruments.replays, settings.max_unread_tokens)

    def chat_answer(head: Head, _: Job) -> Answer:
        return ChatAnswer(head, model.tokenizer)

    def completion_answer(head: Head, job: Job) -> Answer:
        return CompletionAnswer(head, model.tokenizer, job.echoes)

    hot: dict[str, ASGIApp] = {
        path: Endpoint(
            path, prefix, read, spell, model.name, model.tokenizer, backend, settings, instruments, gate
        )
        for path, prefix, read, spell in (
            ("/v1/chat/completions", "chatcmpl-", model.chat_job, chat_answer),
            ("/v1/completions", "cmpl-", model.completion_job, completion_answer),
        )
    }  # fmt: skip
    cold = cold_routes(Health(manifest, router), metrics, model.context_length)

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return hot.get(scope["path"], cold)(scope, receive, send)

    return app


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _serve(context: Context, app: ASGIApp, listener: socket.socket, router: RouterClient, gate: Gate) -> None:
    """Accept until asked to stop, then finish what runs within the drain time."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    process.stop_on_signals(loop, stop)
    context.notifier.watch(loop, stop)
    drain_s = context.spec.drain_timeout_s
    server = _Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(drain_s),
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    stopping = asyncio.create_task(stop.wait())
    readying = asyncio.create_task(_tell_ready(context, router))
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    log.info("draining for at most %g s", drain_s)
    server.should_exit = True
    readying.cancel()
    stopping.cancel()
    _, unfinished = await asyncio.wait((serving,), timeout=max(0.0, drain_s - FAREWELL_S))
    if unfinished:
        gate.stop()
    await serving


async def _tell_ready(context: Context, router: RouterClient) -> None:
    await router.wait_connected()
    context.notifier.ready()


def _bind(context: Context) -> socket.socket:
    """The listening socket, on exactly the planned address."""
    address = (context.host, context.endpoints[context.spec.name].ports["http"])
    settings = context.spec.frontend or FrontendSettings()
    try:
        listener = socket.create_server(address, backlog=BACKLOG)
    except OSError as error:
        raise StartError(f"cannot bind {address[0]}:{address[1]}: {error.strerror}") from error
    # Connections inherit it: the kernel resets one whose peer has read nothing for that long.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(settings.stalled_client_s * 1000))
    log.info("listening on http://%s:%d", *listener.getsockname()[:2])
    return listener
