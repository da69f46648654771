"""srt-slurm recipes, schema 1 and 2 -> our spec and the cluster they ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dynamoc.compiler.importers.hardware import cluster_of, host_note
from dynamoc.compiler.importers.points import points
from dynamoc.compiler.importers.recipe import (
    EXTERNAL,
    Fields,
    Imported,
    Path,
    RecipeError,
    name_of,
    spell,
    without_nothing,
)
from dynamoc.compiler.importers.srt_fields import (
    COMPONENT,
    ENGINES,
    IGNORED,
    IGNORED_VALUES,
    ROLES,
    RoleFields,
    role_fields,
)
from dynamoc.compiler.importers.srt_load import load_of, time_limit_of
from dynamoc.compiler.importers.srt_model import image_of, model_of, version_of
from dynamoc.compiler.importers.srt_routing import frontend_of, router_of
from dynamoc.compiler.importers.srt_site import site_of

DEFAULT_GPUS_PER_NODE = 4
DEFAULT_ENGINE = "sglang"
PLACES = ("dedicated", "head")


class Pool(msgspec.Struct, frozen=True):
    """The workers of one role. `nodes` is 0 where they share the nodes of prefill."""

    role: str
    engine: str
    workers: int
    nodes: int
    gpus: int
    fields: RoleFields


def recognises(documents: list[Any]) -> bool:
    """Whether this is an srt-slurm recipe."""
    first = documents[0] if len(documents) == 1 and isinstance(documents[0], dict) else {}
    recipe = first.get("base") if isinstance(first.get("base"), dict) else first
    assert isinstance(recipe, dict)
    return isinstance(recipe.get("model"), dict) and ("resources" in recipe or "roles" in recipe)


def read(documents: list[Any]) -> Iterator[Imported]:
    """Every point of the recipe."""
    for name, recipe in points(documents[0]):
        yield _imported(name, recipe)


def _imported(point: str, recipe: Mapping[str, Any]) -> Imported:
    fields = Fields(recipe)
    schema = 2 if "roles" in recipe or "engine" in recipe else 1
    pools = _pools(fields, schema)
    model = model_of(fields, [pool.fields.args for pool in pools])
    env = fields.take_env("environment")
    common = {**_common(fields, pools[0].engine), "env": env}
    reserved = _reserved_nodes(fields)
    nodes = sum(pool.nodes for pool in pools)
    spec = {
        "dynamoc": 1,
        "name": name_of(fields.take_text("name") or "recipe"),
        "model": model,
        "defaults": without_nothing(common),
        "components": {
            "frontend": frontend_of(fields, nodes + reserved, env),
            "router": router_of(fields),
            **{COMPONENT[pool.role]: _worker(fields, pool, pools, common) for pool in pools},
        },
        "edges": [" -> ".join(("frontend", "router", *(COMPONENT[pool.role] for pool in pools)))],
        "placement": {"reserve_nodes": reserved} if reserved else None,
        "load": load_of(fields),
        "time_limit": time_limit_of(fields),
    }
    cluster = _cluster(fields, nodes + reserved)
    _ignore(fields)
    return Imported(point, without_nothing(spec), cluster, fields.unmapped(), dict(fields.ignored), tuple(fields.notes))


def _pools(fields: Fields, schema: int) -> list[Pool]:
    node = _gpus_per_node(fields)
    pools: list[Pool] = []
    for role in ROLES:
        engine = _engine(fields, role)
        paths = role_fields(schema, role, engine)
        workers = fields.take_count(*paths.workers)
        if fields.get(*paths.nodes) == "colocate":
            fields.take(*paths.nodes)
            nodes: int | None = 0
        else:
            nodes = fields.take_count(*paths.nodes)
        gpus = fields.take_count(*paths.gpus)
        workers = workers if workers is not None else int(schema >= 2 and fields.get("roles", role) is not None)
        if not workers:
            continue
        if gpus is None:
            shared = nodes == 0 and pools
            gpus = pools[0].gpus if shared else nodes * node // workers if nodes else node
        pools.append(Pool(role, engine, workers, _nodes(role, nodes, workers, gpus, node), gpus, paths))
    if not pools:
        raise RecipeError("the recipe has no workers")
    return pools


def _nodes(role: str, nodes: int | None, workers: int, gpus: int, node: int) -> int:
    """Nodes of a role; where the recipe does not say, as many as its workers fill, 0 for one that shares."""
    if nodes is not None:
        return nodes
    if role == "agg":
        return 1
    return max(1, -(-workers * gpus // node))


def _gpus_per_node(fields: Fields) -> int:
    return fields.take_count("resources", "gpus_per_node") or DEFAULT_GPUS_PER_NODE


def _engine(fields: Fields, role: str) -> str:
    """What a role says, else the recipe, else the section that is there."""
    for path in (("roles", role, "engine"), ("engine",), ("backend",)):
        where: Path = (*path, "type") if isinstance(fields.get(*path), dict) else path
        named = fields.take(*where)
        if isinstance(named, str):
            return _known(named, where)
    present = [name for name in ENGINES if fields.get("backend", f"{name}_config") is not None]
    return present[0] if present else DEFAULT_ENGINE


def _known(engine: str, where: Path) -> str:
    if engine not in ENGINES:
        raise RecipeError(
            f"`{spell(where)}` names the engine `{engine}`; those that are known are {', '.join(ENGINES)}"
        )
    return engine


def _common(fields: Fields, engine: str) -> dict[str, Any]:
    """What holds for every worker. Dynamo's frontend starts Dynamo's modules, any other the engines' own servers."""
    kind = fields.take("frontend", "type", default="dynamo")
    if engine not in EXTERNAL:
        return {"engine": engine}
    image = image_of(fields)
    entrypoint = "dynamo" if kind == "dynamo" else "native"
    return {"engine": engine, "version": version_of(fields, engine, image), "image": image, "entrypoint": entrypoint}


def _worker(fields: Fields, pool: Pool, pools: list[Pool], common: Mapping[str, Any]) -> dict[str, Any]:
    alone = pool.nodes and not any(other.nodes == 0 for other in pools) and not _colocated(fields)
    env = fields.take_env(*pool.fields.env)
    worker = {
        "role": "aggregated" if pool.role == "agg" else pool.role,
        "engine": pool.engine if pool.engine != common["engine"] else None,
        "image": fields.take_text("roles", pool.role, "container"),
        "replicas": pool.workers,
        "gpus": pool.gpus or None,
        "nodes": pool.nodes if alone else None,
    }
    args = fields.take_map(*pool.fields.args) if pool.engine in EXTERNAL else {}
    return without_nothing({**worker, "args": args or None, "env": env})


def _colocated(fields: Fields) -> bool:
    """Whether decode may use what prefill leaves free of its nodes."""
    return fields.take("backend", "allow_prefill_decode_colocation") is True


def _reserved_nodes(fields: Fields) -> int:
    """Nodes beside those of the workers: for the planes, the frontend and the client, one for all unless told."""
    owners = [owner for owner in ("frontend", "benchmark") if fields.get(owner, "placement", "node") in PLACES]
    dedicated = [
        *(fields.take(owner, "placement", "node") == "dedicated" for owner in owners),
        fields.take("infra", "etcd_nats_dedicated_node") is True,
        fields.take("frontend", "dedicated_node") is True,
        fields.take("benchmark", "client_dedicated_node") is True,
    ]
    services = fields.get("services", default=[])
    nodes = 0
    for index, service in enumerate(services if isinstance(services, list) else ()):
        if isinstance(service, dict) and service.get("name", service.get("type")) in ("etcd", "nats"):
            dedicated.append(fields.get("services", index, "placement", "node") == "dedicated")
            fields.ignore("dynamoc's planes need no etcd and no NATS", "services", index)
        else:
            nodes += fields.take_count("services", index, "nodes") or 0
    together = fields.take("benchmark", "colocate_with_frontend", default=True) is not False
    alone = sum(dedicated)
    return int(nodes + (min(1, alone) if together else alone))


def _cluster(fields: Fields, nodes: int) -> dict[str, Any]:
    kind = fields.take_text("resources", "gpu_type") or "gpu"
    fields.notes.append(host_note(kind))
    return cluster_of(kind, _gpus_per_node(fields), nodes, site_of(fields))


def _ignore(fields: Fields) -> None:
    for path, reason in IGNORED.items():
        fields.ignore(reason, *path)
    for path, value, reason in IGNORED_VALUES:
        if fields.get(*path, default=fields) == value:
            fields.ignore(reason, *path)
