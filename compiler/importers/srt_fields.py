"""Where srt-slurm recipes say what: the same facts stand at other paths in schema 1 and schema 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dynamoc.compiler.importers.recipe import EXTERNAL, Path

ROLES = ("prefill", "decode", "agg")
ENGINES = (*EXTERNAL, "mocker")
SECTION = {"prefill": "prefill", "decode": "decode", "agg": "aggregated"}
"""What schema 1 calls a role below `backend`."""
COMPONENT = {"prefill": "prefill", "decode": "decode", "agg": "worker"}
FRAMEWORK = {"trtllm": "tensorrt_llm"}
"""Engines that `identity.frameworks` calls otherwise."""


class RoleFields(NamedTuple):
    """Paths of what is said of a role."""

    nodes: Path
    workers: Path
    gpus: Path
    env: Path
    args: Path


def role_fields(schema: int, role: str, engine: str) -> RoleFields:
    """The paths of a role."""
    if schema >= 2:
        return RoleFields(*((("roles", role, name)) for name in ("nodes", "workers", "gpus", "env", "args")))
    section = SECTION[role]
    return RoleFields(
        nodes=("resources", f"{role}_nodes"),
        workers=("resources", f"{role}_workers"),
        gpus=("resources", f"gpus_per_{role}"),
        env=("backend", f"{section}_environment"),
        args=("backend", f"{engine}_config", section),
    )


_RUNTIME = "dynamoc brings its own runtime, the same on every node"
_PLANES = "dynamoc's planes need no etcd and no NATS"
_PROXY = "dynamoc's frontends are addressed one by one, without a proxy"
_DEADLINE = "readiness deadlines follow from the model, not from the recipe"
_WRITTEN = "the plan and its inputs are always written to the run folder"

IGNORED: Mapping[Path, str] = {
    ("schema",): "the version of the recipe's language",
    ("dynamo", "install"): _RUNTIME,
    ("dynamo", "version"): _RUNTIME,
    ("dynamo", "hash"): _RUNTIME,
    ("dynamo", "wheel"): _RUNTIME,
    ("dynamo", "top_of_tree"): _RUNTIME,
    ("dynamo", "source"): _RUNTIME,
    ("dynamo", "cargo_patches"): _RUNTIME,
    ("dynamo", "request_plane"): _PLANES,
    ("dynamo", "event_plane"): _PLANES,
    ("identity", "frameworks", "dynamo"): _RUNTIME,
    ("infra", "nats_max_payload_mb"): _PLANES,
    ("frontend", "nginx_container"): _PROXY,
    ("frontend", "nginx_raise_ulimit"): _PROXY,
    ("frontend", "nginx_keepalive_timeout"): _PROXY,
    ("health_check", "max_attempts"): _DEADLINE,
    ("health_check", "interval_seconds"): _DEADLINE,
    ("enable_config_dump",): _WRITTEN,
    ("backend", "publish_events_and_metrics"): "workers always publish events and metrics",
    ("engine", "publish_events_and_metrics"): "workers always publish events and metrics",
    ("engine", "publish_metrics"): "workers always publish events and metrics",
}
"""Fields whose absence changes nothing that is served or measured, and why."""

_NIXL = "prefill and decode use NIXL unless the engine's own flags say otherwise"

IGNORED_VALUES: tuple[tuple[Path, object, str], ...] = (
    (("profiling", "type"), "none", "nothing is profiled"),
    (("backend", "connector"), None, "no connector is named; the engine's own flags say how KV moves"),
    (("engine", "connector"), None, "no connector is named; the engine's own flags say how KV moves"),
    (("backend", "connector"), "nixl", _NIXL),
    (("engine", "connector"), "nixl", _NIXL),
    (("resources", "het_jobs"), False, "one homogeneous job is what dynamoc submits"),
    (("resources", "spread_workers"), False, "workers are packed, as by default"),
    (("frontend", "nginx_session_affinity"), False, _PROXY),
    (("benchmark", "sweep"), None, "nothing is swept"),
    (("benchmark", "type"), "sa-bench", "load of these lengths is what dynamoc's own generator makes"),
)
"""Fields that are left out where they have this value, and why."""
