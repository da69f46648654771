"""Importer and rules over a folder of public recipes, which `DYNAMOC_CORPUS` names: it is not part of this tree."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import brute_force
import pytest
import yaml

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.importers.recipe import Imported
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.importers.verdict import ACCEPTED, FAILED, REJECTED, WARNED, Verdict
from dynamoc.compiler.importers.writing import to_text
from dynamoc.compiler.lower import lower
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.source import read_source
from dynamoc.launcher.verdict_table import to_table
from dynamoc.launcher.verdicts import Library, judge_folder, recipes_in
from dynamoc.runtime.manifest import Manifest, ProcessSpec, decode_manifest, encode_manifest

ROOT = Path(__file__).parents[2]
FOLDER = os.environ.get("DYNAMOC_CORPUS")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="DYNAMOC_CORPUS names no folder of recipes")
COMPONENT = {"prefill": "prefill", "decode": "decode", "agg": "worker"}
SECTION = dict(brute_force.ROLES)
WRONG = {"srt-slurm/examples/enable-profiling.yaml": "D330"}
"""Refused by arithmetic: without a tensor-parallel size, 671 billion parameters of a byte each are on one GPU."""


@pytest.fixture(scope="module")
def folder() -> Path:
    assert FOLDER is not None
    return Path(FOLDER)


@pytest.fixture(scope="module")
def verdicts(folder: Path) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for verdict in judge_folder(folder):
        found.setdefault(verdict.file, []).append(verdict)
    return found


def test_every_file_is_imported(folder: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    assert [p.relative_to(folder).as_posix() for p in recipes_in(folder)] == list(verdicts)
    assert [v for file in verdicts.values() for v in file if v.verdict == FAILED] == []


def test_no_recipe_without_a_grid_is_refused(verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    static = [v for file in verdicts.values() for v in file if not v.point or v.point.startswith(("override", "zip"))]

    assert len(static) > 100
    refused = [v for v in static if v.verdict == REJECTED]
    assert [(v.file, v.point, v.reasons) for v in refused if v.codes != (WRONG.get(v.file),)] == []


def test_the_ledger_agrees_with_plain_arithmetic(folder: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    wrong, counts = [], {"over": 0, "idle": 0, "exact": 0}
    for file, found in verdicts.items():
        points = list(brute_force.recipes(folder / file))
        assert len(points) == len(found), file
        for verdict, (_, recipe) in zip(found, points, strict=True):
            workers = [w for w in brute_force.workers(recipe) if w.engine != "mocker"]
            over = any(w.world > w.allotted for w in workers)
            idle = any(w.world < w.allotted for w in workers)
            counts["over" if over else "idle" if idle else "exact"] += 1
            expected = ("D308" in verdict.codes) is over and (
                over or ("D309" in verdict.codes) is idle or verdict.verdict == REJECTED
            )
            figures = (verdict.gpus_needed, verdict.gpus_allocated) if workers else (0, 0)
            summed = (sum(w.workers * w.world for w in workers), sum(w.workers * w.allotted for w in workers))
            if not expected or figures != summed:
                wrong.append((file, verdict.point, verdict.codes, figures, summed))

    assert wrong == []
    assert counts["over"] > 0 < counts["idle"]


def test_all_engine_keys_reach_the_command(folder: Path) -> None:
    """Import, write the texts, compile them, read the manifest: what the engine is told is what the recipe says."""
    library, lost, compared = Library(), [], 0
    for path in recipes_in(folder):
        imported = next(iter(read_recipe(path.read_text())))
        manifest, verdict = through_text(imported, library)
        _, recipe = next(brute_force.recipes(path))
        if manifest is None:
            assert verdict == REJECTED
            continue
        for worker in brute_force.workers(recipe):
            if worker.engine == "mocker":
                continue
            args = (recipe["backend"].get(f"{worker.engine}_config") or {}).get(SECTION[worker.role]) or {}
            process = next(p for p in manifest.processes if p.name == f"{COMPONENT[worker.role]}-0")
            lost += [
                (path.name, worker.role, key) for key in args if not reaches(process, worker.engine, key, args[key])
            ]
            compared += len(args)

    assert lost == []
    assert compared > 1000


def through_text(imported: Imported, library: Library) -> tuple[Manifest | None, str]:
    source = read_source(to_text(imported.spec), "spec.yaml")
    cluster = read_cluster(read_source(to_text(imported.cluster), "cluster.yaml"))
    proof = prove(source, cluster, library(source.data["model"]))
    if proof.plan is None:
        return None, REJECTED
    return decode_manifest(encode_manifest(lower(proof.plan)).encode()), WARNED if proof.diagnostics else ACCEPTED


def reaches(process: ProcessSpec, engine: str, key: str, value: Any) -> bool:
    assert process.launch is not None
    if engine == "trtllm":
        options = yaml.safe_load(next(iter(process.launch.files.values())))
        return key in options and options[key] == value
    words = [word if isinstance(word, str) else "<host>" for word in process.launch.words]
    if value is None or value is False:
        return f"--{key}" not in words
    if key == "model" and f"--{key}" not in words:
        return value in words
    at = words.index(f"--{key}") if f"--{key}" in words else -1
    items = [] if value is True else value if isinstance(value, list) else [value]
    return at >= 0 and all(
        same(word, item) for word, item in zip(words[at + 1 : at + 1 + len(items)], items, strict=True)
    )


def same(word: str, item: Any) -> bool:
    return word == item if isinstance(item, str) else json.loads(word) == item


def test_the_page_in_the_documentation_is_this_one(folder: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    page = (ROOT / "docs" / "corpus.md").read_text()

    assert page == to_table([verdict for file in verdicts.values() for verdict in file])
