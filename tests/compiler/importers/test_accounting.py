"""Nothing vanishes: every leaf of a recipe changes what is imported, or is named as left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamoc.compiler.importers.recipe import Imported, RecipeError, spell
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.scalars import plain

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.yaml"))
Where = tuple[str | int, ...]


def leaves(value: Any, path: Where = ()) -> Iterator[Where]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, dict | list):
        yield path
    for key, entry in inner:
        yield from leaves(entry, (*path, key))


def changed(documents: list[Any], path: Where) -> list[Any]:
    other = copy.deepcopy(documents)
    here: Any = other
    for key in path[:-1]:
        here = here[key]
    value = here[path[-1]]
    if isinstance(value, bool):
        here[path[-1]] = not value
    elif isinstance(value, int):
        here[path[-1]] = value - 1 if value > 1 else value + 1
    elif isinstance(value, float):
        here[path[-1]] = value / 2
    else:
        here[path[-1]] = f"{value}7"
    return other


def read(documents: list[Any]) -> Imported:
    (found,) = read_recipe(yaml.safe_dump_all(documents, sort_keys=False))
    return found


def outcome(found: Imported) -> Any:
    return plain(dict(found.spec)), plain(dict(found.cluster)), found.notes


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_leaf_is_mapped_or_named(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    before = read(documents)
    named = {*before.unmapped, *before.ignored}
    main = len(documents) - 1
    vanished = []
    for leaf in leaves(documents):
        where = spell(leaf[1:])
        if leaf[0] != main or any(where == name or where.startswith((f"{name}.", f"{name}[")) for name in named):
            continue
        try:
            same = outcome(read(changed(documents, leaf))) == outcome(before)
        except RecipeError:
            same = False
        if same:
            vanished.append(where)

    assert not vanished


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_field_nobody_knows_is_named(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    main = documents[-1]
    known = ("spec", "benchmark", "SlaConfig", "context_servers")
    place = next((main[name] for name in known if name in main), next(iter(main.values())))
    place["router" if "urls" in place else "invented"] = {"invented": {"deep": [1, {"a": 2}]}}
    found = read(documents)

    assert any("invented" in name for name in found.unmapped)
    assert not any("invented" in str(value) for value in (found.spec, found.cluster))
