"""The worker in front of an engine's own server: what the server says of itself, joined with what the plan says."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec

from dynamoc.runtime.engines.generator import Capacity
from dynamoc.runtime.manifest import Launch, PortRef, WorkerSettings
from dynamoc.runtime.process import Context, Endpoint
from dynamoc.runtime.served.api import Facts, model_of
from dynamoc.runtime.served.engine import ServedEngine
from dynamoc.runtime.served.events import Subscriber
from dynamoc.runtime.served.http import Server, ServerError
from dynamoc.runtime.served.registry import api_of
from dynamoc.runtime.worker.worker import Worker, kv_peers

ENGINE_END_S = 5.0
"""What the engine has of the time for draining, once its requests are done."""
DEFAULT_TOKENS = 8192
DEFAULT_SEQUENCES = 256
"""What a router goes by where neither the engine nor the plan says: only load that is far from it is refused."""
FRONT_ERRORS = (OSError, ValueError, ServerError, msgspec.MsgspecError)


class Front:
    """Made before the engine starts, opened once it serves. `failure` says why the process must not exit with 0."""

    def __init__(self, context: Context, launch: Launch, stop: asyncio.Event) -> None:
        """OSError if the plan's port for KV events is taken."""
        self._context = context
        self._stop = stop
        self._subscriber = None if launch.events is None else Subscriber(launch.events.port)
        self._engine: ServedEngine | None = None
        self._worker: Worker | None = None
        self._failure = ""

    @property
    def failure(self) -> str:
        """Empty while all is well."""
        return self._failure or (self._worker.failure if self._worker is not None else "")

    async def open(self, serves: PortRef) -> None:
        """Serve the plane; one of FRONT_ERRORS where that is not possible."""
        context = self._context
        if context.spec.worker is None:
            raise ValueError(f"`{context.spec.name}` has no worker settings in the plan")
        plan, api = context.spec.worker, api_of(context.spec.worker.engine)
        server = Server(context.host, serves.port)
        settings = joined(plan, await api.facts(server), context_of_model(context.model_folder()))
        digest = _digest(context.manifest.model.ref, settings)
        capacity = Capacity(settings.kv.block_size, settings.kv.blocks, digest)
        name = (await model_of(server)).id
        self._engine = ServedEngine(
            plan.engine, api, server, name, capacity, sources=_sources(context), subscriber=self._subscriber
        )
        spec = msgspec.structs.replace(context.spec, worker=settings)
        self._worker = Worker(context.with_spec(spec), self._engine, capacity, self._stop, exchange=None)
        await self._worker.start()

    def failed(self, reason: str) -> None:
        """The engine is gone: whoever waits for it hears that another worker may help."""
        self._failure = reason
        if self._worker is not None:
            self._worker.failure = reason

    async def close(self) -> None:
        """Finish what runs, as far as there is time; then hang up."""
        if self._worker is not None:
            await self._worker.drain(max(0.0, self._context.spec.drain_timeout_s - ENGINE_END_S))
            await self._worker.close()
        if self._engine is not None:
            await self._engine.close()
        elif self._subscriber is not None:
            self._subscriber.close()


class _ModelConfig(msgspec.Struct):
    max_position_embeddings: int = 0


def context_of_model(folder: Path) -> int:
    """What the model itself says; 0 where it is not here, or silent."""
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=_ModelConfig).max_position_embeddings
    except (FileNotFoundError, NotADirectoryError):
        return 0


def joined(plan: WorkerSettings, facts: Facts, longest: int = 0) -> WorkerSettings:
    """What the engine found out when it started wins over what was planned, and that over the model's `longest`.

    ValueError if none says how long a context may be.
    """
    context_length = facts.context_length or plan.context_length or longest
    if not context_length:
        raise ValueError("neither engine, plan nor model says how long a context may be; write `context_length`")
    block_size = facts.block_size or plan.kv.block_size
    sequences = facts.max_sequences or plan.max_sequences or DEFAULT_SEQUENCES
    blocks = facts.blocks or plan.kv.blocks or -(-context_length // block_size) * sequences
    return msgspec.structs.replace(
        plan,
        kv=msgspec.structs.replace(plan.kv, block_size=block_size, blocks=blocks),
        context_length=context_length,
        max_batched_tokens=facts.max_batched_tokens or plan.max_batched_tokens or DEFAULT_TOKENS,
        max_sequences=sequences,
    )


def _digest(model: str, settings: WorkerSettings) -> str:
    """Workers of a component are alike if they were told the same; their KV's shape is their engine's affair."""
    facts = (1, model, settings.engine, settings.dtype, settings.kv.dtype, settings.kv.block_size)
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def _sources(context: Context) -> dict[str, Endpoint]:
    """Servers of the prefill workers whose KV this one may get; a worker's leading process has the server."""
    _, sources = kv_peers(context)
    leading = [name for name in sources if context.manifest.process(name).part == 0]
    return {name: context.endpoints[name] for name in leading}
