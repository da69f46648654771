"""Dynamo's DynamoGraphDeployment, v1alpha1 (`services`) and v1beta1 (`components`) -> our spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.importers.dynamo_service import OptionFiles, Service, engine_files, services_of, variable_of
from dynamoc.compiler.importers.hardware import cluster_of, host_note
from dynamoc.compiler.importers.recipe import (
    EXTERNAL,
    Fields,
    Imported,
    RecipeError,
    name_of,
    text_of,
    without_nothing,
)

KIND = "DynamoGraphDeployment"
GPU_NAMES = ("gb300", "gb200", "b300", "b200", "h200", "h100", "a100", "l40s")
GPUS_PER_NODE = {"gb200": 4, "gb300": 4}
IGNORED = {
    ("apiVersion",): "the version of the object's language",
    ("kind",): "the kind of the object",
    ("metadata", "namespace"): "where objects live is the target's business",
}


def recognises(documents: list[Any]) -> bool:
    """Whether one of the documents is such an object."""
    return any(isinstance(document, dict) and document.get("kind") == KIND for document in documents)


def read(documents: list[Any]) -> Iterator[Imported]:
    """Every such object of the file; configuration files it mounts are looked up in the ConfigMaps beside it."""
    files = engine_files(documents)
    graphs = [document for document in documents if isinstance(document, dict) and document.get("kind") == KIND]
    for number, graph in enumerate(graphs):
        yield _imported(f"{number}" if len(graphs) > 1 else "", graph, files)


def _imported(point: str, graph: Mapping[str, Any], files: OptionFiles) -> Imported:
    fields = Fields(graph)
    for path, reason in IGNORED.items():
        fields.ignore(reason, *path)
    services = services_of(fields, files)
    workers = [service for service in services if service.role in ("prefill", "decode", "aggregated")]
    if not workers:
        raise RecipeError("the graph has no workers")
    engine = next((service.engine for service in workers if service.engine), None)
    if engine is None:
        engine = fields.take_text("spec", "backendFramework")
    if engine is None:
        raise RecipeError("no worker of the graph starts an engine that is known; is it a patch of another graph?")
    fields.ignore("the commands of the workers say which engine they start", "spec", "backendFramework")
    shared = _shared_env(fields)
    names = {service.name: name_of(service.name) for service in workers}
    roles = {role: [names[s.name] for s in workers if s.role == role] for role in ("prefill", "decode", "aggregated")}
    frontends = [service for service in services if service.role == "frontend"]
    door = name_of(frontends[0].name) if frontends else "frontend"
    spec = {
        "dynamoc": 1,
        "name": name_of(fields.take_text("metadata", "name") or "graph"),
        "model": _model(fields, workers),
        "defaults": without_nothing({"engine": engine, "env": shared}),
        "components": {
            door: _frontend(fields, frontends, shared),
            "router": {"role": "router", "policy": _policy(frontends)},
            **{names[s.name]: _worker(fields, s, engine) for s in workers},
        },
        "edges": _edges(door, roles),
    }
    return Imported(
        point, without_nothing(spec), _cluster(fields, workers), fields.unmapped(), fields.ignored, tuple(fields.notes)
    )


def _shared_env(fields: Fields) -> dict[str, str]:
    env: dict[str, str] = {}
    for key in ("envs", "env"):
        listed = fields.get("spec", key)
        for index, variable in enumerate(listed if isinstance(listed, list) else ()):
            name, value = variable_of(variable)
            if name is not None:
                fields.take("spec", key, index)
                env[name] = value
    return env


def _frontend(fields: Fields, frontends: list[Service], shared: Mapping[str, str]) -> dict[str, Any]:
    """The first one; of several, and of flags that ours does not have, there is a note."""
    first = frontends[0] if frontends else None
    if first is None:
        return {"role": "frontend"}
    flags = [f"--{flag}" for flag in first.args if flag != "router-mode"]
    if flags:
        fields.notes.append(f"flags of `{first.name}` that are not mapped: {' '.join(flags)}")
    if len(frontends) > 1:
        fields.notes.append(f"of {len(frontends)} frontends only `{first.name}` is mapped")
    frontend = {"replicas": max(first.replicas, 1), "image": first.image, "env": {**shared, **first.env}}
    return without_nothing({"role": "frontend", **frontend})


def _policy(frontends: list[Service]) -> str:
    modes = [service.args.get("router-mode") for service in frontends]
    modes += [service.env.get("DYN_ROUTER_MODE") for service in frontends]
    return "kv" if "kv" in modes else "random" if "random" in modes else "round_robin"


def _worker(fields: Fields, service: Service, engine: str) -> dict[str, Any]:
    """An engine of ours is no program in an image, and has no flags of another."""
    own = service.engine or engine
    worker = {
        "role": service.role,
        "engine": own if own != engine else None,
        "replicas": max(service.replicas, 1),
        "gpus": service.gpus * service.nodes or None,
        "nodes_per_worker": service.nodes if service.nodes > 1 else None,
        "env": dict(service.env),
    }
    if own in EXTERNAL:
        worker |= {"entrypoint": service.entrypoint, "image": service.image, "args": dict(service.args) or None}
    elif service.args or service.image:
        fields.notes.append(
            f"`{own}` is part of dynamoc: of `{service.name}` the image {service.image or 'none'} and these flags are "
            f"not mapped: {service.args}"
        )
    return without_nothing(worker)


def _edges(door: str, roles: Mapping[str, list[str]]) -> list[str]:
    """Every prefill pool feeds every decode pool; aggregated pools stand behind the router."""
    chains = [f"{door} -> router -> {p} -> {d}" for p in roles["prefill"] for d in roles["decode"]]
    lone = roles["aggregated"] + ([] if chains else roles["prefill"] + roles["decode"])
    return chains + [f"{door} -> router -> {name}" for name in lone]


def _model(fields: Fields, workers: list[Service]) -> dict[str, Any]:
    """By the flags of the workers: what is loaded, else what it is served as."""
    where = next((text_of(s.args[k]) for s in workers for k in ("model", "model-path") if k in s.args), None)
    served = next((text_of(s.args["served-model-name"]) for s in workers if "served-model-name" in s.args), None)
    if where is None and served is None:
        fields.notes.append("the graph names no model; put its name into `model.ref`")
    path = where if where is not None and where.startswith("/") else None
    ref = served if path is not None and served is not None else where or served or "model"
    revision = path.rpartition("/snapshots/")[2] if path is not None and "/snapshots/" in path else None
    return without_nothing({"ref": ref.strip("/"), "path": path, "revision": revision, "served_name": served})


def _cluster(fields: Fields, workers: list[Service]) -> dict[str, Any]:
    """Kubernetes says how many GPUs a pod has, not how many a node has: as many as the kind usually has."""
    kind = next((name for name in GPU_NAMES for s in workers if name in s.node_labels), "gpu")
    size = max(GPUS_PER_NODE.get(kind, 8), *(service.gpus for service in workers))
    fields.notes.append(host_note(kind))
    whole = sum(service.replicas * service.nodes for service in workers if service.nodes > 1)
    packed = sum(service.replicas * service.gpus for service in workers if service.nodes == 1)
    slack = max((service.gpus for service in workers if service.nodes == 1), default=1) - 1
    return cluster_of(kind, size, whole + -(-(packed + slack) // size))
