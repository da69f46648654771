"""TensorRT-LLM's disaggregated `config.yaml` (`context_servers`, `generation_servers`) -> our spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.importers.hardware import cluster_of, host_note
from dynamoc.compiler.importers.recipe import Fields, Imported, RecipeError, name_of, without_nothing

SERVERS = {"context_servers": "prefill", "generation_servers": "decode"}
ORCHESTRATION = frozenset(
    {
        *("hostname", "port", "model", "conditional_disagg_config", "disagg_cluster", "max_retries"),
        *("metadata_server", "node_id", "otlp_config", "perf_metrics_max_requests", "schedule_style"),
    }
)
"""Fields beside the groups that are of the server before them, not of the engines."""
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
    shared = {key: fields.take(key) for key in data if key not in (*SERVERS, *ORCHESTRATION)}
    fields.ignore("hosts are assigned when the pipeline is placed", "hostname")
    groups = {role: _group(fields, name) for name, role in SERVERS.items()}
    groups = {role: worker for role, worker in groups.items() if worker["replicas"]}
    if "decode" not in groups:
        raise RecipeError("`generation_servers.num_instances` is 0: there are no servers that generate")
    if len(groups) == 1:
        fields.notes.append("there are no context servers: the generation servers do both phases")
        groups = {"worker": {**groups["decode"], "role": "aggregated"}}
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
        "edges": [" -> ".join(("frontend", "router", *groups))],
    }
    if model is None:
        fields.notes.append("the configuration names no model; put its name into `model.ref`")
    fields.notes.append(host_note(KIND))
    needed = sum(worker["replicas"] * ranks_of({**shared, **worker.get("args", {})}) for worker in groups.values())
    cluster = cluster_of(KIND, GPUS_PER_NODE, -(-needed // GPUS_PER_NODE))
    yield Imported("", spec, cluster, fields.unmapped(), fields.ignored, tuple(fields.notes))


def _group(fields: Fields, name: str) -> dict[str, Any]:
    """A pool of servers; its own fields are the engine's but for a few."""
    urls = fields.get(name, "urls")
    count = fields.take_count(name, "num_instances")
    fields.ignore("addresses are assigned when the pipeline is placed", name, "urls")
    instances = count if count is not None else len(urls) if isinstance(urls, list) else 1
    args = {key: fields.take(name, key) for key in fields.get(name) if key not in OURS}
    return without_nothing({"role": SERVERS[name], "replicas": instances, "args": args or None})


def _policy(fields: Fields) -> str:
    """One router serves both groups, so the wish of the context servers decides."""
    for name in SERVERS:
        kind = fields.get(name, "router", "type")
        if isinstance(kind, str) and kind in POLICIES:
            return POLICIES[fields.take(name, "router", "type")]
    return "round_robin"


def ranks_of(args: Mapping[str, Any]) -> int:
    """GPUs of a server with these options."""
    ranks = 1
    for size in ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"):
        written = args.get(size)
        ranks *= written if isinstance(written, int) and written > 0 else 1
    return ranks
