"""TensorRT-LLM's benchmark files -> our spec: a Slurm job of two pools (`worker_config`), or `server_configs`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.importers.hardware import cluster_of, host_note
from dynamoc.compiler.importers.recipe import (
    Fields,
    Imported,
    RecipeError,
    can_be_set,
    name_of,
    text_of,
    without_nothing,
)
from dynamoc.compiler.importers.trtllm import ranks_of

POOLS = {"ctx": "prefill", "gen": "decode"}
KIND, GPUS_PER_NODE = "gpu", 8
CLIENTS = "client_configs"
_PLACEHOLDER = re.compile(r"<[^<>]*>|")
_JOB = "the job's own script is dynamoc's business"
IGNORED = {
    ("slurm", "script_file"): _JOB,
    ("slurm", "job_name"): _JOB,
    ("environment", "work_dir"): _JOB,
    ("environment", "build_wheel"): "the image is taken as it is",
    ("environment", "trtllm_repo"): "the image is taken as it is",
    ("environment", "trtllm_wheel_path"): "the image is taken as it is",
    ("environment", "cuda_architectures"): "the image is taken as it is",
}


def recognises(documents: list[Any]) -> bool:
    """Whether this is one of the two."""
    data = documents[0] if len(documents) == 1 else None
    return isinstance(data, dict) and (
        (isinstance(data.get("worker_config"), dict) and isinstance(data.get("hardware"), dict))
        or (isinstance(data.get("server_configs"), list) and "hardware" in data)
    )


def read(documents: list[Any]) -> Iterator[Imported]:
    """The job, or every server with every load of its clients."""
    data = documents[0]
    if isinstance(data.get("worker_config"), dict):
        yield _job(Fields(data))
        return
    for number, server in enumerate(data["server_configs"]):
        if not isinstance(server, dict):
            raise RecipeError(f"`server_configs[{number}]` takes a mapping")
        clients = server.get(CLIENTS) or [{}]
        for client in clients if isinstance(clients, list) else [clients]:
            yield _server(data, number, server, client)


def _job(fields: Fields) -> Imported:
    pools = {role: _pool(fields, name) for name, role in POOLS.items()}
    pools = {role: worker for role, worker in pools.items() if worker["replicas"]}
    if "decode" not in pools:
        raise RecipeError("`hardware.num_gen_servers` is 0: there are no servers that generate")
    if len(pools) == 1:
        fields.notes.append("there are no context servers: the generation servers do both phases")
        pools = {"worker": {**pools["decode"], "role": "aggregated"}}
    for path, reason in IGNORED.items():
        fields.ignore(reason, *path)
    where = _given(fields, "environment", "model_path")
    names = (("metadata", "model_dir_name"), ("metadata", "model_name"))
    ref = where or next((found for path in names if (found := _given(fields, *path))), "model")
    ref = ref.rstrip("/").rpartition("/")[2] if ref[0] == "/" else ref
    defaults = {
        "engine": "trtllm",
        "image": (_given(fields, "environment", "container_image") or "").replace("#", "/", 1) or None,
        "entrypoint": "native",
        "env": _env(fields, "worker_env_var"),
    }
    spec = {
        "name": name_of(f"{ref}-trtllm"),
        "model": {"ref": ref, "path": where if where and where[0] == "/" else None},
        "defaults": without_nothing(defaults),
        "components": {
            "frontend": without_nothing({"role": "frontend", "env": _env(fields, "server_env_var")}),
            "router": {"role": "router", "policy": "round_robin"},
            **pools,
        },
        "edges": [" -> ".join(("frontend", "router", *pools))],
        "load": _load(fields),
        "time_limit": _given(fields, "slurm", "job_time"),
    }
    site = {key: _given(fields, "slurm", key) for key in ("partition", "account")}
    return _imported("", fields, spec, list(pools.values()), without_nothing(site))


def _pool(fields: Fields, name: str) -> dict[str, Any]:
    replicas = fields.take_count("hardware", f"num_{name}_servers")
    args = fields.take_map("worker_config", name)
    worker = {"role": POOLS[name], "args": args or None, "env": _env(fields, f"{name}_worker_env_var")}
    return {"replicas": 1 if replicas is None else replicas, **without_nothing(worker)}


def _server(data: Mapping[str, Any], number: int, server: Mapping[str, Any], client: Any) -> Imported:
    """One server and one load of it."""
    shown = {**data, "server_configs": [{**server, CLIENTS: [client]}]}
    fields, here = Fields(shown), ("server_configs", 0)
    name = fields.take_text(*here, "name") or f"server-{number}"
    load = fields.take_text(*here, CLIENTS, 0, "name") or ""
    ref = fields.take_text(*here, "model_name") or fields.take_text("metadata", "model_name") or "model"
    ours = {"name", "model_name", CLIENTS, "server_env_var", "disagg_run_type", "match_mode", "client_env_var"}
    args = {key: fields.take(*here, key) for key in server if key not in ours}
    worker = {"role": "aggregated", "replicas": 1, "args": args or None, "env": _env(fields, *here, "server_env_var")}
    lengths = {key: fields.take_count(*here, CLIENTS, 0, key) for key in ("isl", "osl", "concurrency")}
    spec = {
        "name": name_of(f"{name}-{load}" if load else name),
        "model": {"ref": ref.strip("/")},
        "defaults": {"engine": "trtllm", "entrypoint": "native"},
        "components": {
            "frontend": {"role": "frontend"},
            "router": {"role": "router", "policy": "round_robin"},
            "worker": without_nothing(worker),
        },
        "edges": ["frontend -> router -> worker"],
        "load": without_nothing(lengths) if lengths["isl"] and lengths["osl"] else None,
    }
    return _imported(", ".join(part for part in (name, load) if part), fields, spec, [worker], {})


def _imported(
    point: str, fields: Fields, spec: Mapping[str, Any], workers: list[dict[str, Any]], site: Mapping[str, Any]
) -> Imported:
    supported = fields.get("metadata", "supported_gpus")
    kind = text_of(supported[0]).lower() if isinstance(supported, list) and len(supported) == 1 else KIND
    if kind != KIND:
        fields.take("metadata", "supported_gpus")
    fields.notes.append(host_note(kind))
    node = fields.take_count("hardware", "gpus_per_node") or GPUS_PER_NODE
    nodes = sum(worker["replicas"] * -(-ranks_of(worker.get("args") or {}) // node) for worker in workers)
    spec = without_nothing({"dynamoc": 1, **spec, "model": without_nothing(spec["model"])})
    return Imported(
        point, spec, cluster_of(kind, node, nodes, site), fields.unmapped(), fields.ignored, tuple(fields.notes)
    )


def _given(fields: Fields, *path: str) -> str | None:
    """A word, unless it stands for one that is to be filled in: `<partition>`."""
    found = fields.get(*path)
    if isinstance(found, dict | list) or found is None or _PLACEHOLDER.fullmatch(text_of(found)):
        return None
    return fields.take_text(*path)


def _env(fields: Fields, *path: str | int) -> dict[str, str]:
    """`A=b C=d` in one text; what is no assignment leaves it unmapped."""
    where = path if len(path) > 1 else ("environment", *path)
    written = fields.get(*where)
    try:
        words = shlex.split(written) if isinstance(written, str) else []
    except ValueError:
        return {}
    pairs = [word.partition("=") for word in words]
    if not all(equals and can_be_set(name, value) for name, equals, value in pairs):
        return {}
    fields.take(*where)
    return {name: value for name, _, value in pairs}


def _load(fields: Fields) -> dict[str, Any] | None:
    isl, osl = (fields.get("benchmark", name) for name in ("input_length", "output_length"))
    if not isl or not osl:
        return None
    load: dict[str, Any] = {
        "isl": fields.take_count("benchmark", "input_length"),
        "osl": fields.take_count("benchmark", "output_length"),
    }
    counts = re.split(r"[\s,]+", text_of(fields.get("benchmark", "concurrency_list", default="")).strip())
    if all(re.fullmatch(r"[1-9][0-9]{0,8}", count) for count in counts):
        fields.take("benchmark", "concurrency_list")
        load["concurrency"] = [int(count) for count in counts]
    return load
