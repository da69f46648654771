"""The lock: what a plan was made from and what became of it. Inputs are held by meaning, outputs by their bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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
from dynamoc.compiler.summary import GpuMemory, summarize
from dynamoc.compiler.tiers import disk_tier_bytes, host_tier_bytes
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
NO_SETTINGS = frozenset({"dynamoc", "components", "edges", "allow"})
"""What has sections of its own, or is the plan's."""
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")
_HEADER = "# What this was made from, and what became of it. `dynamoc compile SPEC --locked` refuses anything else.\n"


class LockError(ValueError):
    """A file that is no lock of this version; the message says why."""


class LockedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who runs where, with what; `waived` has the reasons of rules that were broken and allowed to be."""

    hash: str
    edges: dict[str, str]
    processes: dict[str, dict[str, Any]]
    waived: dict[str, str]
    unchecked: list[str]


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plain data by section. `spec` is what was written, `settings` and `components` are that with every default.

    `memory` is what the proof expects of the fullest GPU of a component: an estimate, and none of it drifts.
    """

    format: int
    target: str
    spec: dict[str, Any]
    settings: dict[str, Any]
    components: dict[str, dict[str, Any]]
    inventory: dict[str, Any]
    model: dict[str, str | None]
    images: dict[str, dict[str, str | None]]
    plan: LockedPlan
    memory: dict[str, dict[str, int | str | None]]
    artifacts: dict[str, str]


def lock_of(
    source: Source, plan: Plan, models: ModelLibrary, target: str, artifacts: Artifacts, carried: Mapping[str, str]
) -> Lock:
    """The lock of a plan that came from `source` and became `artifacts`; `carried` lie beside them, by their digest."""
    model = plan.graph.model
    explicit = explicit_spec(plan)
    return Lock(
        format=FORMAT,
        target=target,
        spec=_as_text(source.data),
        settings={key: value for key, value in explicit.items() if key not in NO_SETTINGS},
        components={name: _choices(fields) for name, fields in explicit["components"].items()},
        inventory=_inventory(plan.cluster),
        model={
            "ref": model.ref,
            "revision": model.revision,
            "facts": models.digest(model.path, model.ref),
            "folder": models.folder_digest(model.path, model.ref),
        },
        images={c.name: _image(c.image) for c in plan.graph.components if c.image is not None},
        plan=_plan(plan, lower(plan)),
        memory={memory.component: _memory(memory) for memory in summarize(plan).gpu_memory},
        artifacts={str(a.path): _hash(a.text) for a in artifacts if str(a.path) not in HELD_BY_MEANING} | dict(carried),
    )


def lock_artifact(lock: Lock) -> Artifact:
    """`lock.yaml`; equal locks give equal bytes."""
    return Artifact(LOCK, _HEADER + to_yaml(_in_order(msgspec.to_builtins(lock))))


def read_lock(content: str | bytes, name: str) -> Lock:
    """The lock that a file holds; CompileError where it is not YAML, LockError where it is no lock."""
    data: dict[str, Any] = plain(read_source(content, name, LIMITS).data)
    if data.get("format") != FORMAT:
        found = f"its format is {data['format']}" if "format" in data else "it has no `format`"
        raise LockError(f"{name} is no lock of format {FORMAT}: {found}")
    try:
        return msgspec.convert(data, Lock)
    except msgspec.ValidationError as error:
        raise LockError(f"{name} is no lock of format {FORMAT}: {error}") from error


def lock_in(artifacts: Artifacts) -> Lock:
    """The lock among artifacts, as it is read back from its file."""
    (text,) = (artifact.text for artifact in artifacts if artifact.path == LOCK)
    return read_lock(text, str(LOCK))


def unpinned_images(plan: Plan) -> tuple[str, ...]:
    """Images named without a digest: what they hold may change, and no lock will see it."""
    images = {c.image for c in plan.graph.components if c.image is not None}
    return tuple(sorted(image for image in images if _DIGEST.search(image) is None))


def _choices(fields: dict[str, Any]) -> dict[str, Any]:
    """Where the engine decides, say so."""
    return fields | {name: "auto" for name in ENGINES_CHOICE if fields.get(name) == 0}


def _memory(memory: GpuMemory) -> dict[str, int | str | None]:
    return {key: value for key, value in msgspec.to_builtins(memory).items() if key != "component"}


def _inventory(cluster: Cluster) -> dict[str, Any]:
    """The nodes that the plan uses; the digest names all of them."""
    facts = {key: value for key, value in msgspec.to_builtins(cluster).items() if key != "provenance"}
    nodes = {node.pop("name"): {key: value for key, value in node.items() if value} for node in facts["nodes"]}
    partitions = {part.pop("name"): part for part in facts["partitions"]}
    return facts | {"nodes": nodes, "partitions": partitions, "site": dict(cluster.site)}


def _image(image: str) -> dict[str, str | None]:
    found = _DIGEST.search(image)
    return {"image": image, "digest": None if found is None else found[1]}


def _plan(plan: Plan, manifest: Manifest) -> LockedPlan:
    kinds = {f"{e.source} -> {e.target}": plan.transports.get((e.source, e.target)) or e.kind for e in plan.graph.edges}
    told = zip(plan.processes, manifest.processes, strict=True)
    return LockedPlan(
        hash=manifest.plan_hash,
        edges=kinds,
        processes={process.name: _process(plan, process, spec) for process, spec in told},
        waived={allowance.code: allowance.reason for allowance in plan.waived},
        unchecked=sorted(plan.unchecked),
    )


def _process(plan: Plan, process: Process, spec: ProcessSpec) -> dict[str, Any]:
    """Where a process is, and what it has there."""
    facts: dict[str, Any] = {
        "component": process.component.name,
        "node": plan.cluster.nodes[process.node].name,
        "gpus": list(process.gpus),
        "cpus": process.cpus,
        "ports": dict(process.ports),
        "host_bytes": host_bytes(plan, process) + host_tier_bytes(process),
        "disk_bytes": disk_tier_bytes(process),
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
