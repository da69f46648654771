from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.compiler.importers.documents import read_documents
from dynamoc.compiler.importers.writing import to_text
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.source import read_source

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
SCALAR = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
KEY = TEXT.filter(lambda text: text != "<<")
DATA = st.dictionaries(
    KEY,
    st.recursive(
        SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4), max_leaves=12
    ),
    min_size=1,
    max_size=5,
)


@given(DATA)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_again(data: dict[str, Any]) -> None:
    assert plain(read_source(to_text(data), "spec.yaml").data) == data


def test_numbers_are_written_as_the_recipe_has_them() -> None:
    (data,) = read_documents("{a: 0.80, b: 010, c: [1.50, '1.50', yes, 'yes'], d: {e: null}, f: {}, g: []}")

    assert to_text(data) == ('a: 0.80\nb: 010\nc: [1.50, "1.50", true, "yes"]\nd:\n  e: null\nf: {}\ng: []\n')
