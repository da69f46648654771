"""Machines that were found somewhere -> the text of a cluster file. What finds them is beside this module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from dynamoc.compiler.gpus import find_gpu
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.resolved import exact_size

SUFFIXES = "bcdefghijklmnopqrstuvwxyz"


class DiscoveryError(Exception):
    """What was found does not make an inventory; the message says what is missing."""


class Machine(msgspec.Struct, frozen=True):
    """One machine as it was found; 0 and None are what was not."""

    host: str
    cpus: int
    memory_bytes: int
    gpus: int = 0
    gpu_kind: str | None = None
    gpu_memory_bytes: int = 0
    gres: str | None = None
    """What a scheduler calls its GPUs."""
    disk_bytes: int = 0
    shm_bytes: int = 0
    domain: str | None = None
    """NVLink domain it is in."""


class Queue(msgspec.Struct, frozen=True):
    """A partition of a scheduler; None is no limit."""

    name: str
    max_time: str | None = None
    max_nodes: int | None = None


class Findings(msgspec.Struct, frozen=True):
    """All that was found. `left_out` says why machines are not part of it."""

    name: str
    machines: tuple[Machine, ...]
    provenance: str
    queues: tuple[Queue, ...] = ()
    left_out: tuple[str, ...] = ()


def with_gpus_named(findings: Findings, kind: str | None) -> Findings:
    """Every GPU has a kind and a memory: the kind as found, else as told; DiscoveryError where neither is known."""
    machines = tuple(_named(machine, kind) for machine in findings.machines)
    return replace(findings, machines=machines)


def _named(machine: Machine, told: str | None) -> Machine:
    if not machine.gpus:
        return machine
    kind = machine.gpu_kind if find_gpu(machine.gpu_kind) or not told else told
    known = find_gpu(kind)
    if kind is None or (known is None and not machine.gpu_memory_bytes):
        found = f"of the kind `{kind}`, which we do not know" if kind else "of a kind that nothing names"
        raise DiscoveryError(f"{machine.host} has GPUs {found}: say what they are, as in `--gpu H200`")
    memory = machine.gpu_memory_bytes or (known.memory if known is not None else 0)
    return replace(machine, gpu_kind=known.kind if known is not None else kind, gpu_memory_bytes=memory)


def cluster_text(findings: Findings) -> str:
    """A cluster file: machines that are alike are one entry, with the names they have at the site."""
    if not findings.machines:
        raise DiscoveryError("no usable node was found" + "".join(f"; {reason}" for reason in findings.left_out))
    groups = _alike(findings.machines)
    names = _names(list(groups))
    data: dict[str, Any] = {
        "name": findings.name,
        "provenance": "; ".join((findings.provenance, *findings.left_out)),
        "nodes": [_entry(name, group) for name, group in zip(names, groups.values(), strict=True)],
    }
    domain = _domain_nodes(findings.machines)
    if domain is not None:
        data["nvlink_domain_nodes"] = domain
    if findings.queues:
        data["partitions"] = [_queue(queue) for queue in findings.queues]
    return to_yaml(data)


def _alike(machines: Iterable[Machine]) -> dict[Machine, list[Machine]]:
    """Machines by what they have, in the order they were found."""
    groups: dict[Machine, list[Machine]] = {}
    for machine in machines:
        groups.setdefault(replace(machine, host="", domain=None), []).append(machine)
    return groups


def _names(shapes: Sequence[Machine]) -> list[str]:
    """`h200` and `cpu`, with a letter where several kinds of node have the same GPU."""
    names: list[str] = []
    for shape in shapes:
        stem = "".join(c if c.isalnum() else "-" for c in (shape.gpu_kind or "cpu").lower()).strip("-")[:30]
        stem = stem if stem[:1].isalpha() else f"n{stem}"
        names.append(next(name for name in (stem, *(f"{stem}-{s}" for s in SUFFIXES)) if name not in names))
    return names


def _entry(name: str, group: Sequence[Machine]) -> dict[str, Any]:
    shape = group[0]
    entry: dict[str, Any] = {"name": name, "count": len(group), "cpus": shape.cpus}
    entry["memory"] = exact_size(shape.memory_bytes)
    if shape.gpus:
        memory = exact_size(shape.gpu_memory_bytes)
        entry["gpus"] = {"count": shape.gpus, "kind": shape.gpu_kind, "memory": memory}
        if shape.gres is not None:
            entry["gpus"]["gres"] = shape.gres
    if shape.disk_bytes:
        entry["disk"] = exact_size(shape.disk_bytes)
    if shape.shm_bytes:
        entry["shm"] = exact_size(shape.shm_bytes)
    return entry | {"hosts": [machine.host for machine in group]}


def _domain_nodes(machines: Sequence[Machine]) -> int | None:
    """Size of the largest NVLink domain, where domains were found."""
    domains = [machine.domain for machine in machines if machine.domain is not None]
    return max(map(domains.count, domains)) if domains else None


def _queue(queue: Queue) -> dict[str, Any]:
    limits = {"max_time": queue.max_time, "max_nodes": queue.max_nodes}
    return {"name": queue.name} | {key: value for key, value in limits.items() if value is not None}
