"""TensorRT-LLM's disaggregated `config.yaml` (`context_servers`, `generation_servers`) -> our spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamoc.compiler.importers.hardware import cluster_of, host_note
from dynamoc.compiler.importers.recipe import Fields, Imported, name_of, without_nothing

SERVERS = {"context_servers": "prefill", "generation_servers": "decode"}
OURS = ("num_instances", "urls", "router")
"""Fields of a group of servers that are not the engine's."""
POLICIES = {"round_robin": "round_robin", "load_balancing": "least_loaded", "kv_cache_aware": "kv"}
GPUS_PER_NODE = 8
KIND = "gpu"


def recognises(documents: list[Any]) -> bool:
    """Whether both groups of servers are there."""
    data = documents[0] if len(documents) == 1 else None
    return isinstance(data, dict) and all(isinstance(data.get(name), dict) for name in SERVERS)


def read(documents: list[Any]) -> Iterator[Imported]:
    """The one deployment it describes. What stands beside the groups holds for every server."""
    data = documents[0]
    fields = Fields(data)
    model = fields.take_text("model")
    shared = {key: fields.take(key) for key in data if key not in (*SERVERS, "hostname", "port", "model")}
    fields.ignore("hosts are assigned when the pipeline is placed", "hostname")
    groups = {role: _group(fields, name) for name, role in SERVERS.items()}
    ref = model or "model"
    spec = {
        "dynamoc": 1,
        "name": name_of(f"{ref.rpartition('/')[2]}-trtllm"),
        "model": without_nothing({"ref": ref.strip("/"), "path": ref if ref.startswith("/") else None}),
        "defaults": without_nothing({"engine": "trtllm", "args": shared or None}),
        "components": {
            "frontend": without_nothing({"role": "frontend", "port": fields.take_count("port")}),
            "router": {"role": "router", "policy": _policy(fields)},
            **groups,
        },
        "edges": ["frontend -> router -> prefill -> decode"],
    }
    if model is None:
        fields.notes.append("the configuration names no model; put its name into `model.ref`")
    fields.notes.append(host_note(KIND))
    needed = sum(worker["replicas"] * _ranks({**shared, **worker.get("args", {})}) for worker in groups.values())
    cluster = cluster_of(KIND, GPUS_PER_NODE, -(-needed // GPUS_PER_NODE))
    yield Imported("", spec, cluster, fields.unmapped(), fields.ignored, tuple(fields.notes))


def _group(fields: Fields, name: str) -> dict[str, Any]:
    """A pool of servers; its own fields are the engine's but for a few."""
    urls = fields.get(name, "urls")
    count = fields.take_count(name, "num_instances")
    fields.ignore("addresses are assigned when the pipeline is placed", name, "urls")
    instances = count if count is not None else len(urls) if isinstance(urls, list) else 1
    args = {key: fields.take(name, key) for key in fields.get(name) if key not in OURS}
    return without_nothing({"role": SERVERS[name], "replicas": max(instances, 1), "args": args or None})


def _policy(fields: Fields) -> str:
    """One router serves both groups, so the wish of the context servers decides."""
    for name in SERVERS:
        kind = fields.get(name, "router", "type")
        if isinstance(kind, str) and kind in POLICIES:
            return POLICIES[fields.take(name, "router", "type")]
    return "round_robin"


def _ranks(args: dict[str, Any]) -> int:
    ranks = 1
    for size in ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"):
        written = args.get(size)
        ranks *= written if isinstance(written, int) and written > 0 else 1
    return ranks
