"""What Kubernetes says of its nodes: the JSON of `kubectl get nodes`, with the labels of GPU feature discovery."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.launcher.discovery import DiscoveryError, Findings, Machine

NODE_WORDS = ("kubectl", "get", "nodes", "--output=json")
GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu")
PRODUCT_LABELS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name")
MEMORY_LABEL = "nvidia.com/gpu.memory"
DOMAIN_LABEL = "nvidia.com/gpu.clique"
MIB = 2**20
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|[kKMGTPE]i?)?")
_POWERS = "KMGTPE"


def read_kubernetes(text: str, cluster: str = "k8s") -> Findings:
    """Nodes that take pods; DiscoveryError if the text is not a list of nodes."""
    try:
        items = json.loads(text)["items"]
        machines = tuple(_machine(item) for item in items if not _away(item))
        away = [str(item["metadata"]["name"]) for item in items if _away(item)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DiscoveryError(f"the answer of `kubectl get nodes` cannot be read ({error})") from error
    left_out = (f"left out as not ready or cordoned: {', '.join(away)}",) if away else ()
    return Findings(cluster, machines, "kubectl get nodes, allocatable", left_out=left_out)


def _away(item: Mapping[str, Any]) -> bool:
    """Cordoned, or not ready."""
    conditions = item.get("status", {}).get("conditions", ())
    ready = [condition["status"] == "True" for condition in conditions if condition["type"] == "Ready"]
    return bool(item.get("spec", {}).get("unschedulable")) or not all(ready)


def _machine(item: Mapping[str, Any]) -> Machine:
    labels, have = item["metadata"].get("labels", {}), item["status"]["allocatable"]
    memory = str(labels.get(MEMORY_LABEL, ""))
    return Machine(
        host=str(item["metadata"]["name"]),
        cpus=int(quantity(have["cpu"])),
        memory_bytes=int(quantity(have["memory"])),
        gpus=sum(int(quantity(count)) for count in _of(have, GPU_RESOURCES)),
        gpu_kind=next(_of(labels, PRODUCT_LABELS), None),
        gpu_memory_bytes=int(memory) * MIB if memory.isdigit() else 0,
        disk_bytes=int(quantity(have.get("ephemeral-storage", "0"))),
        domain=labels.get(DOMAIN_LABEL),
    )


def _of(values: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    return (str(values[key]) for key in keys if key in values)


def quantity(text: str) -> float:
    """`127500m`, `1056Gi`, `8`; ValueError for anything else."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"`{text}` is not a quantity")
    number, unit = float(match[1]), match[2] or ""
    if unit == "m":
        return number / 1000
    base = 1024 if unit.endswith("i") else 1000
    return number * base ** (_POWERS.index(unit[0].upper()) + 1) if unit else number
