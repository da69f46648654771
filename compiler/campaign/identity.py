"""Ids by content: what is the same deployment, and the same point, whatever it is called."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

import dynamoc
from dynamoc.compiler.cluster import Node
from dynamoc.compiler.load_plan import LoadPoint
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.resolved import resolved_spec

CHARACTERS = 16
NAMES_OF_NODES = ("name", "host")


def deployment_id(plan: Plan, target: str) -> str:
    """Of the resolved spec, the kinds of nodes it is placed on, the target and our version."""
    spec = {key: value for key, value in resolved_spec(plan).items() if key not in ("name", "load")}
    spec["model"] = {key: value for key, value in spec["model"].items() if key != "served_name"}
    nodes = [_kind_of(node) for node in plan.cluster.nodes]
    return _digest({"dynamoc": dynamoc.__version__, "target": target, "spec": spec, "nodes": nodes})


def point_id(deployment: str, load: LoadPoint, tool: str) -> str:
    """Of a deployment, a load and what makes it; of a trace its content counts, and not where it is."""
    said = {**msgspec.structs.asdict(load), "id": "", "tool": tool}
    if load.trace is not None:
        trace = msgspec.structs.asdict(load.trace)
        said["trace"] = {**trace, "path": trace.pop("digest") or load.trace.path}
    return _digest({"deployment": deployment, "load": said})


def _kind_of(node: Node) -> dict[str, Any]:
    facts = msgspec.structs.asdict(node)
    return {key: value for key, value in facts.items() if key not in NAMES_OF_NODES}


def _digest(content: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:CHARACTERS]
