from __future__ import annotations

import pytest

from dynamoc.compiler.importers.documents import read_documents
from dynamoc.compiler.importers.recipe import RecipeError
from dynamoc.compiler.scalars import plain


def test_numbers_remember_how_they_are_written() -> None:
    (data,) = read_documents("{a: 0.80, b: 010, c: 1e3, d: '1', e: 4:00:00, f: null, g: 1.10}")

    assert [getattr(value, "written", value) for value in data.values()] == [
        "0.80", "010", "1e3", "1", "4:00:00", None, "1.10",
    ]  # fmt: skip


def test_words_of_older_readers_are_what_they_were() -> None:
    (data,) = read_documents("{a: yes, b: off, c: 'yes', d: True}")

    assert data == {"a": True, "b": False, "c": "yes", "d": True}


def test_merge_keys_anchors_and_several_documents() -> None:
    text = "base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}\nboth: {<<: [*b, {z: 4}]}\n---\n---\nkind: !!str 5\n"
    first, second = read_documents(text)

    assert plain(first["mine"]) == {"x": 1, "y": 3}
    assert plain(first["both"]) == {"x": 1, "y": 2, "z": 4}
    assert list(second) == ["kind"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 2, column 1"),
        ("a: 1\na: 2", "line 2: the key `a` is written twice"),
        ("a: &x [*x]", "contains itself"),
        ("{[1]: 2}", "a key is not a word"),
        ('a: "1\\0"', "line 1: the text has a NUL character"),
        ('\n"a\\0": 1', "line 2: the text has a NUL character"),
        ("[" * 80 + "]" * 80, "nested deeper"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
            "200000 values",
        ),
        ("x: 1\n" * 500_000, "characters"),
        ("a: \x00", "not YAML"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_documents(text)
