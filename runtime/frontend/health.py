"""The cold routes: models, health, liveness, metrics; and OpenAI's error shape for every other path."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dynamoc.runtime.frontend.errors import ApiError
from dynamoc.runtime.frontend.router_client import RouterClient, RouterLostError
from dynamoc.runtime.manifest import Manifest, Role
from dynamoc.runtime.metrics import Metrics

ROUTER_ANSWER_LIMIT_S = 2.0


@dataclass(slots=True)
class Health:
    """Whether requests can be served, and by whom.

    At the start, every role of the plan needs a worker; later on those that can decode are enough, since they can
    compute prompts too.
    """

    manifest: Manifest
    router: RouterClient
    _was_complete: bool = field(default=False, init=False)

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether to send requests here, and the facts."""
        try:
            registered = await self.router.workers(ROUTER_ANSWER_LIMIT_S)
        except RouterLostError as error:
            return False, {"status": "unavailable", "router": str(error), "workers": {}, "missing": []}
        names = {worker.address.name for worker in registered}
        planned = [process for process in self.manifest.processes if process.role.is_worker]
        missing = [process.name for process in planned if process.name not in names]
        roles = Counter(process.role for process in planned if process.name in names)
        can_decode = bool(roles[Role.DECODE] or roles[Role.AGGREGATED])
        self._was_complete |= all(roles[process.role] for process in planned)
        serves = can_decode and self._was_complete
        status = ("degraded" if missing else "ready") if serves else "unavailable"
        workers = {role.value: count for role, count in sorted(roles.items())}
        return serves, {"status": status, "router": "connected", "workers": workers, "missing": missing}


def cold_routes(health: Health, metrics: Metrics, context_length: int) -> Starlette:
    """The app behind every path that is not hot."""
    name = health.manifest.model.served_name
    card = {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "dynamoc",
        "max_model_len": context_length,
    }

    async def models(_: Request) -> Response:
        return _json({"object": "list", "data": [card]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != name:
            message = f"model `{request.path_params['name']}` does not exist; this server has `{name}`"
            return _error(ApiError(404, message, param="model", code="model_not_found"))
        return _json(card)

    async def ready(_: Request) -> Response:
        serves, facts = await health.report()
        return _json(facts, 200 if serves else 503)

    async def live(_: Request) -> Response:
        return _json({"status": "live"})

    async def exposition(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    routes = [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", ready),
        Route("/live", live),
        Route("/metrics", exposition),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = "does not exist" if error.status_code == 404 else f"does not take {request.method}"
    response = _error(ApiError(error.status_code, f"{request.url.path} {what}"))
    response.headers.update(error.headers or {})
    return response


def _json(fields: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(fields), status, media_type="application/json")


def _error(error: ApiError) -> Response:
    return Response(error.body(), error.status, media_type="application/json")
