"""Importer and rules over a folder of public recipes, which `DYNAMOC_CORPUS` names: it is not part of this tree."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
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
from dynamoc.runtime.manifest import Launch, Manifest, decode_manifest, encode_manifest

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
    library, wrong, compared = Library(), [], Counter[str]()
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
            assert process.launch is not None
            heard = heard_by(worker.engine, process.launch, args)
            for key, value in args.items():
                compared[json.dumps(value) if isinstance(value, bool | None) else type(value).__name__] += 1
                if exactly(heard.get(key)) != exactly(value):
                    wrong.append((path.name, worker.role, key, value, heard.get(key)))

    print(dict(compared))
    assert wrong == []
    assert compared.total() > 10_000
    assert min(compared[kind] for kind in ("true", "false", "null", "dict", "list", "int", "float", "str")) > 0


def through_text(imported: Imported, library: Library) -> tuple[Manifest | None, str]:
    source = read_source(to_text(imported.spec), "spec.yaml")
    cluster = read_cluster(read_source(to_text(imported.cluster), "cluster.yaml"))
    proof = prove(source, cluster, library(source.data["model"]))
    if proof.plan is None:
        return None, REJECTED
    return decode_manifest(encode_manifest(lower(proof.plan)).encode()), WARNED if proof.diagnostics else ACCEPTED


def heard_by(engine: str, launch: Launch, args: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the engine's own parser makes of its command, for the keys of a recipe."""
    if engine == "trtllm":
        options: dict[str, Any] = yaml.safe_load(next(iter(launch.files.values())))
        return options
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for key, value in args.items():
        if isinstance(value, bool):  # vLLM's come with a negation and have defaults of their own; SGLang's are switches
            optional = engine == "vllm" and not key.startswith("no-")
            action = argparse.BooleanOptionalAction if optional else "store_true"
            parser.add_argument(f"--{key}", dest=key, action=action)
        else:
            parser.add_argument(f"--{key}", dest=key, nargs="+" if isinstance(value, list) else None)
    words = [word if isinstance(word, str) else "<word of the plan>" for word in launch.words]
    told = vars(parser.parse_known_args(words)[0])
    if "model" in args and told["model"] is None:
        told["model"] = words[words.index("serve") + 1]
    return {key: typed(text, args[key]) for key, text in told.items()}


def typed(text: Any, like: Any) -> Any:
    """A word as the type it has in the recipe; texts stay as they are."""
    if isinstance(text, list):
        return [typed(word, item) for word, item in zip(text, like, strict=True)]
    return json.loads(text) if isinstance(text, str) and not isinstance(like, str) else text


def exactly(value: Any) -> str:
    """One text for values that are the same, whole and not whole numbers, truth and numbers apart."""
    return json.dumps(value, sort_keys=True)


def test_the_page_in_the_documentation_is_this_one(folder: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    page = (ROOT / "docs" / "corpus.md").read_text()

    assert page == to_table([verdict for file in verdicts.values() for verdict in file])
