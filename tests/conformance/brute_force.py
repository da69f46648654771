"""World sizes and allotments straight from the text of srt-slurm recipes, by arithmetic of its own.

Nothing of the importer, the dialects or the rules is used: a plain YAML parser and the engines' documented products.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROLES = (("prefill", "prefill"), ("decode", "decode"), ("agg", "aggregated"))


@dataclass(frozen=True, slots=True)
class Worker:
    role: str
    engine: str
    workers: int
    world: int
    allotted: int


def recipes(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every point of a file, numbered in the order of the text."""
    data = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    yield from enumerate(point for variant in _variants(data) for point in _sweep(variant))


def workers(recipe: dict[str, Any]) -> list[Worker]:
    backend, resources = recipe.get("backend") or {}, recipe["resources"]
    sections = [key[:-7] for key in backend if key.endswith("_config") and key != "kv_events_config"]
    engine = backend.get("type") or (sections or ["sglang"])[0]
    node = int(resources.get("gpus_per_node", 4))
    found = []
    for role, section in ROLES:
        count = int(resources.get(f"{role}_workers") or 0)
        if not count:
            continue
        nodes = int(resources.get(f"{role}_nodes") or 0)
        shares = found and nodes == 0  # decode without nodes of its own takes as many GPUs as prefill
        computed = nodes * node // count if nodes else found[0].allotted if shares else node
        allotted = resources.get(f"gpus_per_{role}") or computed
        args = {k.replace("_", "-"): v for k, v in ((backend.get(f"{engine}_config") or {}).get(section) or {}).items()}
        found.append(Worker(role, engine, count, world_size(engine, args), int(allotted)))
    return found


def world_size(engine: str, args: dict[str, Any]) -> int:
    def size(*names: str) -> int:
        return next((int(args[name]) for name in names if args.get(name) is not None), 1)

    tp = size("tensor-parallel-size", "tp-size", "tp")
    pp = size("pipeline-parallel-size", "pp-size", "pp")
    dp = size("data-parallel-size", "dp-size", "dp")
    if engine == "sglang":
        inside = str(args.get("enable-dp-attention", False)).lower() == "true"
        return tp * pp if inside else tp * pp * dp
    if engine == "vllm":
        return tp * pp * dp * size("prefill-context-parallel-size")
    if engine == "trtllm":
        return tp * pp * size("context-parallel-size")
    return tp * pp * dp


def _variants(data: dict[str, Any]) -> list[dict[str, Any]]:
    if "base" not in data:
        return [data]
    found = []
    for key, change in data.items():
        if key.startswith("override_"):
            found.append(_merge(data["base"], change))
        elif key.startswith("zip_override_"):
            length = max((len(values) for values in _lists(change)), default=1)
            found.extend(_merge(data["base"], _pick(change, index)) for index in range(length))
    return found


def _lists(node: Any) -> Iterator[list[Any]]:
    if isinstance(node, list):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _lists(value)


def _pick(node: Any, index: int) -> Any:
    if isinstance(node, list):
        return node[min(index, len(node) - 1)]
    return {k: _pick(v, index) for k, v in node.items()} if isinstance(node, dict) else node


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def _sweep(recipe: dict[str, Any]) -> Iterator[dict[str, Any]]:
    axes = recipe.pop("sweep", None) or {}
    for values in itertools.product(*axes.values()):
        yield _replace(recipe, dict(zip(axes, values, strict=True)))


def _replace(node: Any, values: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        return {k: _replace(v, values) for k, v in node.items()}
    if isinstance(node, list):
        return [_replace(v, values) for v in node]
    if isinstance(node, str):
        for name, value in values.items():
            if node == "{" + name + "}":
                return value
            node = node.replace("{" + name + "}", str(value))
    return node
