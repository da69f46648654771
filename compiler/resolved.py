"""The spec of a plan with every default and every choice written out. Compiled again, it gives the same plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Edge, Graph, WorkerOptions
from dynamoc.compiler.load import DEFAULT_TOOL, Load, Replay
from dynamoc.compiler.plan import Plan
from dynamoc.runtime.manifest import CacheSettings, FrontendSettings, Role, RouterSettings

KIB = 1024


def resolved_spec(plan: Plan) -> dict[str, Any]:
    """Plain data, ready to be written as YAML; what has no value is left out."""
    return _spec(plan, _compilable)


def explicit_spec(plan: Plan) -> dict[str, Any]:
    """The same with the defaults that are the engines' own; to be read, not to be compiled."""
    return _spec(plan, explicit)


def _spec(plan: Plan, fields_of: Callable[[Plan, Component], dict[str, Any]]) -> dict[str, Any]:
    graph = plan.graph
    model = graph.model
    spec = {
        "dynamoc": 1,
        "name": graph.name,
        "model": {
            "ref": model.ref,
            "path": model.path,
            "revision": model.revision,
            "served_name": model.served_name,
            "precision": model.precision,
        },
        "components": {component.name: fields_of(plan, component) for component in _components(plan)},
        "edges": [_edge(plan, edge) for edge in sorted(graph.edges, key=lambda e: (e.source, e.target))],
        "placement": _placement(graph),
        "load": _load(graph.load) if graph.load else None,
        "time_limit": _seconds(graph.time_limit_s) if graph.time_limit_s else None,
        "allow": _allow(graph),
    }
    cleaned: dict[str, Any] = _without_nothing(spec)
    return cleaned


def _components(plan: Plan) -> list[Component]:
    """In the order of their processes, then caches, which have none."""
    placed = {process.component.name: process.component for process in plan.processes}
    return [*placed.values(), *plan.graph.of_role(Role.CACHE)]


def _placement(graph: Graph) -> dict[str, Any] | None:
    groups = sorted(sorted(group) for group in graph.same_node)
    wishes = {"same_node": groups or None, "reserve_nodes": graph.reserve_nodes or None}
    return wishes if any(wishes.values()) else None


def _load(load: Load) -> dict[str, Any]:
    rate = load.request_rate
    return {
        "isl": load.isl,
        "osl": load.osl,
        "isl_stddev": load.isl_stddev or None,
        "osl_stddev": load.osl_stddev or None,
        "concurrency": list(load.concurrency) or None,
        "concurrency_per_gpu": load.concurrency_per_gpu,
        "request_rate": "inf" if rate == math.inf else rate,
        **_trace(load.trace),
        "requests": load.requests,
        "warmup_requests": load.warmup_requests,
        "shared_prefix": load.shared_prefix or None,
        "prefixes": None if load.prefixes == 1 else load.prefixes,
        "seed": load.seed or None,
        "tool": None if load.tool == DEFAULT_TOOL else load.tool,
    }


def _trace(trace: Replay | None) -> dict[str, Any]:
    if trace is None:
        return {}
    return {"trace": trace.path, "trace_speed": trace.speed, "trace_block_tokens": trace.block_tokens}


def _allow(graph: Graph) -> list[dict[str, str]] | None:
    return [{"code": a.code, "reason": a.reason} for a in graph.allow] or None


def _compilable(plan: Plan, component: Component) -> dict[str, Any]:
    fields = explicit(plan, component)
    if component.worker is not None and dialect(component.worker.engine).capabilities.external:
        return _as_written(fields, component.worker)
    return fields


def explicit(plan: Plan, component: Component) -> dict[str, Any]:
    """Every field of a component; None where there is no value."""
    fields: dict[str, Any] = {"role": str(component.role)}
    if component.frontend is not None:
        fields |= {"replicas": component.replicas, "image": component.image, "port": component.port}
        fields |= _frontend(component.frontend)
    if component.router is not None:
        fields |= _router(component.router)
    if component.worker is not None:
        blocks = next(p.kv_blocks for p in plan.processes if p.component is component)
        fields |= {"replicas": component.replicas} | _worker(component.worker, blocks)
    if component.cache is not None:
        fields |= _cache(component.cache)
    if component.ready_timeout_s is not None:
        fields["ready_timeout"] = _seconds(component.ready_timeout_s)
    return fields | {"env": dict(sorted(component.env.items())) or None}


def _frontend(frontend: FrontendSettings) -> dict[str, Any]:
    settings = msgspec.structs.asdict(frontend)
    settings["max_body"] = exact_size(settings.pop("max_body_bytes"))
    for name in ("request_timeout", "stalled_client", "router_wait"):
        settings[name] = _seconds(settings.pop(f"{name}_s"))
    return settings


def _router(router: RouterSettings) -> dict[str, Any]:
    settings = msgspec.structs.asdict(router)
    settings["queue_timeout"] = _seconds(settings.pop("queue_timeout_s"))
    if settings["policy"] != "kv":
        for name in ("overlap_credit", "prefill_load_scale", "temperature"):
            del settings[name]
    return settings


def _cache(cache: CacheSettings) -> dict[str, Any]:
    tiers: dict[str, Any] = {} if cache.host_bytes is None else {"host": exact_size(cache.host_bytes)}
    if cache.disk is not None:
        tiers["disk"] = {"path": cache.disk.path, "size": exact_size(cache.disk.bytes)}
    if cache.object is not None:
        size = None if cache.object.bytes is None else exact_size(cache.object.bytes)
        tiers["object"] = {"url": cache.object.url, "size": size}
    return {"tiers": tiers, "admission": cache.admission}


def _worker(options: WorkerOptions, kv_blocks: int) -> dict[str, Any]:
    parallel = options.parallel
    return {
        "engine": options.engine,
        "version": options.version,
        "device": options.device,
        "dtype": options.dtype,
        "kv_dtype": options.kv_dtype,
        "parallel": {"tp": parallel.tp, "pp": parallel.pp, "dp": parallel.dp, "ep": parallel.ep},
        "block_size": options.block_size,
        "kv_blocks": kv_blocks,
        "context_length": options.context_length,
        "max_batched_tokens": options.max_batched_tokens,
        "max_sequences": options.max_sequences,
        "prefix_caching": options.prefix_caching,
        "cpus": options.cpus,
        "gpus": options.gpus,
        "nodes_per_worker": options.nodes_per_worker,
        "nodes": options.nodes,
        "image": options.image,
        "entrypoint": options.entrypoint if options.entrypoint != "native" else None,
        "args": options.args or None,
    }


def _as_written(fields: dict[str, Any], options: WorkerOptions) -> dict[str, Any]:
    """Without defaults that are the engine's own: written out they would become flags of its command."""
    always = {"role", "replicas", "engine", "device", "args", "env"}
    kept = {name: value for name, value in fields.items() if name in always | options.written}
    sizes = {name: size for name, size in fields["parallel"].items() if f"parallel.{name}" in options.written}
    return kept | {"parallel": sizes or None}


def _edge(plan: Plan, edge: Edge) -> str | dict[str, str]:
    transport = plan.transports.get((edge.source, edge.target))
    if transport is None:
        return f"{edge.source} -> {edge.target}"
    return {"from": edge.source, "to": edge.target, "transport": transport}


def exact_size(size: int) -> str:
    """The largest unit that divides it, so nothing is rounded."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % KIB**power == 0:
            return f"{size // KIB**power} {unit}"
    return f"{size} B"


def _seconds(duration: float) -> str:
    text = format(Decimal(repr(duration)), "f")
    return f"{text.removesuffix('.0')} s"


def _without_nothing(value: Any) -> Any:
    """Drop entries that are None, but never from the user's own `args`."""
    if not isinstance(value, dict):
        return value
    return {k: v if k == "args" else _without_nothing(v) for k, v in value.items() if v is not None}
