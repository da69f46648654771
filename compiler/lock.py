"""The lock: what a plan was made from and what became of it. Inputs are held by meaning, outputs by their bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

import msgspec

from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.lower import lower
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.passes.check_memory import host_bytes
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.resolved import explicit_spec
from dynamoc.compiler.scalars import WrittenFloat, WrittenInt, plain
from dynamoc.compiler.source import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, Limits, Source, read_source
from dynamoc.runtime.manifest import Manifest, ProcessSpec

FORMAT = 1
DIGEST_BYTES = 16
LOCK = PurePosixPath("lock.yaml")
LIMITS = Limits(characters=64 * MAX_CHARACTERS, depth=MAX_DEPTH + 8, nodes=64 * MAX_NODES)
"""A lock holds its spec, and more."""
HELD_BY_MEANING = frozenset({"spec.yaml", "inventory.json"})
"""Artifacts that repeat an input; comments in them, and where a file was read, are no drift."""
ENGINES_CHOICE = ("kv_blocks", "context_length", "max_batched_tokens", "max_sequences")
"""Fields that are 0 in a plan where the engine decides."""
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")
_HEADER = "# What this was made from, and what became of it. `dynamoc compile SPEC --locked` refuses anything else.\n"


class LockError(ValueError):
    """A file that is no lock of this version; the message says why."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Plain data by section. `resolved` has every default; `spec` only what was written."""

    target: str
    spec: Mapping[str, Any]
    resolved: Mapping[str, Any]
    inventory: Mapping[str, Any]
    model: Mapping[str, Any]
    images: Mapping[str, Any]
    plan: Mapping[str, Any]
    artifacts: Mapping[str, Any]


def lock_of(source: Source, plan: Plan, models: ModelLibrary, target: str, artifacts: Artifacts) -> Lock:
    """The lock of a plan that came from `source` and became `artifacts`."""
    model = plan.graph.model
    return Lock(
        target=target,
        spec=_as_text(source.data),
        resolved=_resolved(plan),
        inventory=_inventory(plan.cluster),
        model={
            "ref": model.ref,
            "revision": model.revision,
            "facts": models.digest(model.path, model.ref),
            "folder": models.folder_digest(model.path, model.ref),
        },
        images={c.name: _image(c.image) for c in plan.graph.components if c.image is not None},
        plan=_plan(plan, lower(plan)),
        artifacts={str(a.path): _hash(a.text) for a in artifacts if str(a.path) not in HELD_BY_MEANING},
    )


def lock_artifact(lock: Lock) -> Artifact:
    """`lock.yaml`; equal locks give equal bytes."""
    return Artifact(LOCK, _HEADER + to_yaml({"format": FORMAT} | _in_order(asdict(lock))))


def read_lock(content: str | bytes, name: str) -> Lock:
    """The lock that a file holds; CompileError where it is not YAML, LockError where it is no lock."""
    data: dict[str, Any] = plain(read_source(content, name, LIMITS).data)
    if data.get("format") != FORMAT:
        found = f"its format is {data['format']}" if "format" in data else "it has no `format`"
        raise LockError(f"{name} is no lock of format {FORMAT}: {found}")
    for part in fields(Lock):
        kind: type = str if part.name == "target" else dict
        if not isinstance(data.get(part.name), kind):
            raise LockError(f"{name} is no lock of format {FORMAT}: `{part.name}` is missing or not what it must be")
    return Lock(**{part.name: data[part.name] for part in fields(Lock)})


def lock_in(artifacts: Artifacts) -> Lock:
    """The lock among artifacts, as it is read back from its file."""
    (text,) = (artifact.text for artifact in artifacts if artifact.path == LOCK)
    return read_lock(text, str(LOCK))


def unpinned_images(plan: Plan) -> tuple[str, ...]:
    """Images named without a digest: what they hold may change, and no lock will see it."""
    images = {c.image for c in plan.graph.components if c.image is not None}
    return tuple(sorted(image for image in images if _DIGEST.search(image) is None))


def _resolved(plan: Plan) -> dict[str, Any]:
    """Every field of every component; edges are the plan's."""
    spec = {key: value for key, value in explicit_spec(plan).items() if key not in ("dynamoc", "edges", "allow")}
    for name, component in spec["components"].items():
        told = {field: "auto" for field in ENGINES_CHOICE if component.get(field) == 0}
        spec["components"][name] = component | told
    return spec


def _inventory(cluster: Cluster) -> dict[str, Any]:
    """The nodes that the plan uses; the digest names all of them."""
    facts = {key: value for key, value in asdict(cluster).items() if key != "provenance"}
    nodes = {node.pop("name"): {key: value for key, value in node.items() if value} for node in facts["nodes"]}
    partitions = {part.pop("name"): part for part in facts["partitions"]}
    return facts | {"nodes": nodes, "partitions": partitions, "site": dict(cluster.site)}


def _image(image: str) -> dict[str, str | None]:
    found = _DIGEST.search(image)
    return {"image": image, "digest": None if found is None else found[1]}


def _plan(plan: Plan, manifest: Manifest) -> dict[str, Any]:
    kinds = {f"{edge.source} -> {edge.target}": edge.transport or edge.kind for edge in manifest.edges}
    told = zip(plan.processes, manifest.processes, strict=True)
    return {
        "hash": manifest.plan_hash,
        "edges": kinds,
        "processes": {process.name: _process(plan, process, spec) for process, spec in told},
        "waived": {allowance.code: allowance.reason for allowance in plan.waived},
        "unchecked": list(plan.unchecked),
    }


def _process(plan: Plan, process: Process, spec: ProcessSpec) -> dict[str, Any]:
    """Where a process is, and what it has there."""
    facts: dict[str, Any] = {
        "component": process.component.name,
        "node": plan.cluster.nodes[process.node].name,
        "gpus": list(process.gpus),
        "cpus": process.cpus,
        "ports": dict(process.ports),
        "host_bytes": host_bytes(plan, process),
        "env": dict(process.env),
    }
    if spec.launch is not None:
        facts["launch"] = msgspec.to_builtins(spec.launch)
    return {key: value for key, value in facts.items() if value}


def _as_text(value: Any) -> Any:
    """What was written: numbers that are spelled in a way of their own, as `1.10` is, as text."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, WrittenInt | WrittenFloat):
        return plain(value) if str(plain(value)) == value.written else value.written
    return value


def _in_order(value: Any) -> Any:
    """Keys sorted below the sections, whose own order is that of `Lock`."""
    if not isinstance(value, dict):
        return [_sorted(item) for item in value] if isinstance(value, list) else value
    return {key: _sorted(item) for key, item in value.items()}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
