"""Verdicts over a folder of recipes: every file and every point of its grid, on all cores, in a fixed order."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamoc.compiler.importers.verdict import Judge, Verdict
    from dynamoc.compiler.models import ModelLibrary

SUFFIXES = (".yaml", ".yml")
BATCH = 16
"""Files that a process is given at a time."""
MAX_BYTES = 16_000_000
"""Of a file that is read at all: more characters than an importer takes, whatever their encoding."""
BUG = "a bug of dynamoc: "


class Library:
    """What is known of models, each read once a process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], ModelLibrary] = {}

    def __call__(self, model: Mapping[str, Any]) -> ModelLibrary:
        """The library of the model of a spec."""
        from dynamoc.compiler.cluster import Cluster
        from dynamoc.compiler.source import Source
        from dynamoc.launcher.reading import model_library

        key = str(model.get("ref")), str(model.get("path"))
        if key not in self._known:
            root = Cluster("", ()).model_root
            self._known[key] = model_library(Source("model", "", {"model": dict(model)}), root)
        return self._known[key]


def recipes_in(folder: Path) -> list[Path]:
    """Every YAML file below a folder, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def judge_folder(folder: Path, processes: int | None = None) -> Iterator[Verdict]:
    """One verdict a file or point; the order does not depend on how many processes there are."""
    files = recipes_in(folder)
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    workers = min(processes or os.cpu_count() or 1, len(batches))
    judge = partial(judge_files, folder)
    if workers <= 1:
        yield from judge(files)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for verdicts in pool.map(judge, batches):
            yield from verdicts


def judge_files(folder: Path, files: Sequence[Path]) -> list[Verdict]:
    """The verdicts of some files, in one process."""
    from dynamoc.compiler.importers.verdict import Judge

    judge = Judge(Library())
    return [verdict for path in files for verdict in judge_file(judge, folder, path)]


def judge_file(judge: Judge, folder: Path, path: Path) -> list[Verdict]:
    """The verdicts of one file; a point that cannot be imported is a line as well."""
    from dynamoc.compiler.importers.recipe import RecipeError
    from dynamoc.compiler.importers.registry import read_recipe
    from dynamoc.compiler.importers.verdict import FAILED, Verdict

    name = path.relative_to(folder).as_posix()
    verdicts: list[Verdict] = []
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
        verdicts += (judge.verdict(name, imported) for imported in read_recipe(text))
    except (RecipeError, OSError) as error:
        verdicts.append(Verdict(name, "", FAILED, reasons=(str(error),)))
    except Exception as error:  # noqa: BLE001  # one file must not cost the verdicts of all others: see `bugs`
        traceback.print_exc()
        verdicts.append(Verdict(name, "", FAILED, reasons=(f"{BUG}{type(error).__name__}: {error}",)))
    return verdicts


def bugs(verdicts: Sequence[Verdict]) -> int:
    """How many files met a bug of ours; what it was stands on standard error."""
    return sum(any(reason.startswith(BUG) for reason in verdict.reasons) for verdict in verdicts)


def to_lines(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """JSON, one object a line."""
    import msgspec

    for verdict in verdicts:
        yield msgspec.json.encode(verdict).decode() + "\n"


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many of each."""
    from collections import Counter

    counts = Counter(verdict.verdict for verdict in verdicts)
    files = len({verdict.file for verdict in verdicts})
    words = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return f"{len(verdicts)} recipes and points in {files} files: {words}"
