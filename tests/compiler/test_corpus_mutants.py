"""Public recipes with one thing broken. `DYNAMOC_CORPUS` names their folder, which is not part of this tree."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from mutants import WORKERS, put

from dynamoc.compiler.importers.recipe import Imported
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.importers.verdict import REJECTED, Judge
from dynamoc.launcher.verdicts import Library, recipes_in

FOLDER = os.environ.get("DYNAMOC_CORPUS")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="DYNAMOC_CORPUS names no folder of recipes")
TP = ("tp", "tp-size", "tp_size", "tensor-parallel-size", "tensor_parallel_size")
ROOM = {"D301", "D302", "D313", "D314"}
ENOUGH = 2000
Broken = tuple[str, Imported, set[str]]
"""What was changed, the result, and the codes it has to be refused with, any of them; none if it is harmless."""


@pytest.fixture(scope="module")
def right() -> list[tuple[str, Imported]]:
    """The first point of every file, where it is accepted."""
    judge, folder = Judge(Library()), Path(str(FOLDER))
    points = [(path.name, point) for path in recipes_in(folder) for point in islice(read_recipe(path.read_text()), 1)]
    return [(name, point) for name, point in points if judge.verdict(name, point).verdict != REJECTED]


def broken(point: Imported) -> Iterator[Broken]:
    """Mutants of one recipe, each with its arithmetic."""
    spec, (group,) = point.spec, point.cluster["nodes"]
    simulated = spec["defaults"].get("engine") == "mocker"  # which needs none of its GPUs
    pools = {n: c for n, c in spec["components"].items() if c["role"] in WORKERS and "gpus" in c and not simulated}
    per_node = group["gpus"]["count"]
    needed = sum(pool["gpus"] * pool.get("replicas", 1) for pool in pools.values())
    for name, pool in pools.items():
        told = next((key for key in TP if isinstance(pool.get("args", {}).get(key), int)), None)
        all_gpus = pool["gpus"] * pool.get("replicas", 1)
        if told is not None:
            at = ("components", name, "args", told)
            yield f"tp of {name}", replace(point, spec=put(spec, at, 2 * all_gpus)), {"D308"}
        if told is not None and pool["args"][told] > pool.get("replicas", 1):
            yield f"gpus of {name}", replace(point, spec=put(spec, ("components", name, "gpus"), 1)), {"D308"}
        too_many = group["count"] * per_node // pool["gpus"] + 1
        yield f"replicas of {name}", replace(point, spec=put(spec, ("components", name, "replicas"), too_many)), ROOM
    fewer = -(-needed // per_node) - 1
    if fewer > 0:
        yield "fewer nodes", replace(point, cluster=with_nodes(point.cluster, fewer)), ROOM
    yield "more nodes", replace(point, cluster=with_nodes(point.cluster, group["count"] + 3)), set()
    yield "a short load", replace(point, spec=put(spec, ("load",), {"isl": 1, "osl": 1})), set()
    yield "a time limit", replace(point, spec=put(spec, ("time_limit",), "168:00:00")), set()


def with_nodes(cluster: dict[str, Any], count: int) -> dict[str, Any]:
    return cluster | {"nodes": [cluster["nodes"][0] | {"count": count}]}


def test_recipes_with_one_thing_broken(right: list[tuple[str, Imported]]) -> None:
    judge, wrong, counts = Judge(Library()), [], Counter[str]()
    for file, point in right:
        for what, mutant, expected in broken(point):
            verdict = judge.verdict(file, mutant)
            refused = set(verdict.codes) if verdict.verdict == REJECTED else set()
            counts["refused" if refused else "harmless"] += 1
            if bool(refused) != bool(expected) or (expected and not refused & expected):
                wrong.append((file, what, sorted(refused), verdict.reasons[:1]))
    print(dict(counts))

    assert wrong == []
    assert counts["refused"] + counts["harmless"] >= ENOUGH
