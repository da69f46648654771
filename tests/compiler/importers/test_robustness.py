"""Whatever stands in a recipe, it is imported or refused with a message; and what is imported can be judged."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.compiler.importers.recipe import RecipeError
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.importers.verdict import Judge
from dynamoc.compiler.importers.writing import to_text
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.source import read_source

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.yaml"))
MAX_POINTS = 20
Where = tuple[str | int, ...]
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    | st.sampled_from(["{x}", "hf:", "/", "a:b:c", "4x8", "inf", "colocate", "[", "--", "$X", "dedicated", "0", "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef-_.", min_size=1), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: Where = ()) -> Iterator[Where]:
    yield path
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(entry, (*path, key))


def replaced(documents: Any, path: Where, junk: Any) -> Any:
    if not path:
        return junk
    other = copy.deepcopy(documents)
    here = other
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = junk
    return other


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_junk_anywhere_is_met_with_words(path: Path, data: st.DataObject) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from([place for place in places(documents) if place]))
        documents = replaced(documents, where, data.draw(JUNK))
    judge = Judge(lambda model: ModelLibrary())
    with contextlib.suppress(RecipeError):
        for number, imported in enumerate(read_recipe(yaml.safe_dump_all(documents, sort_keys=False))):
            judge.verdict("recipe.yaml", imported)
            read_source(to_text(imported.spec), "spec.yaml")
            if number == MAX_POINTS:
                break
