"""Text to data: the YAML 1.2 core schema, places, bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.source import MAX_ALIASES, MAX_CHARACTERS, MAX_DEPTH, read_source


def data_of(text: str | bytes) -> Any:
    return plain(read_source(text, "f.yaml").data)


def errors_of(text: str | bytes) -> list[tuple[str, int, int]]:
    with pytest.raises(CompileError) as caught:
        read_source(text, "f.yaml")
    return [(d.code, d.labels[0].span.line, d.labels[0].span.column) for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("4:00:00", "4:00:00"),
        ("12:30", "12:30"),
        ("no", "no"),
        ("on", "on"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+7", 7),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("2026-01-01", "2026-01-01"),
        ("0.24.0", "0.24.0"),
        ("~", None),
        ("", None),
        ("null", None),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("=", "="),
        ("'5'", "5"),
        ('"no"', "no"),
        ("9" * 400, int("9" * 400)),
        ("9" * 401, "9" * 401),
        ("1e99", 1e99),
    ],
)
def test_scalars_follow_the_core_schema(written: str, value: Any) -> None:
    found = data_of(f"a: {written}\n")["a"]

    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_one() -> None:
    assert math.isnan(data_of("a: .nan\n")["a"])


def test_numbers_remember_their_text() -> None:
    source = read_source("a: 1.10\nb: 007\n", "f.yaml")

    assert (source.data["a"].written, source.data["b"].written) == ("1.10", "007")


def test_places_of_keys_and_values() -> None:
    source = read_source("a:\n  b: [1, {c: xyz}]\n  d: 2\n", "f.yaml")

    def at(*path: str | int, key: bool = False) -> tuple[int, int, int]:
        span = source.locate(path, key)
        return span.line, span.column, span.length

    assert at("a", "b", 1, "c") == (2, 14, 3)
    assert at("a", "b", 1, "c", key=True) == (2, 11, 1)
    assert at("a", "b") == (2, 6, 13)
    assert at("a") == (1, 1, 1), "a block mapping is marked at its key"
    assert at("a", "d", "deeper", "still") == (3, 3, 1), "the nearest key that is there"
    assert at("elsewhere") == (1, 1, 2)


def test_a_word_of_a_scalar_has_a_place() -> None:
    source = read_source("edges: [router -> pre-fill -> fill]\n", "f.yaml")

    span = source.locate(("edges", 0, "fill"))

    assert (span.column, span.length) == (31, 4)


def test_wide_characters_count_as_one_column() -> None:
    source = read_source("é: 漢😀\nb: 1\n", "f.yaml")

    assert source.locate(("é",)).column == 4
    assert source.locate(("é",)).length == 2
    assert source.locate(("b",)).line == 2


def test_a_byte_order_mark_and_crlf_are_fine() -> None:
    source = read_source("\ufeffa: 1\r\nb:\r\n  - x\r\n".encode(), "f.yaml")

    assert plain(source.data) == {"a": 1, "b": ["x"]}
    assert (source.locate(("a",)).line, source.locate(("a",)).column) == (1, 4)
    assert source.locate(("b", 0)).line == 3


def test_aliases_stand_for_their_anchor() -> None:
    source = read_source("a: &x {b: 1}\nc: *x\n", "f.yaml")

    assert source.data["c"] == {"b": 1}
    assert source.locate(("c", "b")).line == 1
    assert source.places["c", "b"].shared
    assert not source.places["a", "b"].shared


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\na: 2\nb: {c: 1, c: 2}\n", [("D102", 2, 1), ("D102", 3, 11)]),
        (b"a: 1\nb: \xff\n", [("D103", 2, 4)]),
        ("a: \ud800\n", [("D103", 1, 4)]),
        ("a: 1\n---\nb: 1\n", [("D104", 2, 1)]),
        ("a: !!str 1\nb: !x y\n", [("D105", 1, 4), ("D105", 2, 4)]),
        ('a: "x\\0"\n"b\\0": 1\n', [("D105", 1, 4), ("D105", 2, 1)]),
        ('a: "\\ud800"\n', [("D101", 1, 7)]),
        ("<<: {a: 1}\n", [("D105", 1, 1)]),
        ("1: a\ntrue: b\n~: c\n", [("D106", 1, 1), ("D106", 2, 1), ("D106", 3, 1)]),
        ("? [a, b]\n: c\n", [("D106", 1, 3)]),
        ("a: *b\n", [("D107", 1, 4)]),
        ("a: &b [*b]\n", [("D107", 1, 8)]),
        ("", [("D109", 1, 1)]),
        ("# only a comment\n", [("D109", 1, 1)]),
        ("null\n", [("D109", 1, 1)]),
        ("- a\n", [("D109", 1, 1)]),
        ("a:\n\t- b\n", [("D101", 2, 1)]),
        ("a: [1, 2\n", [("D101", 2, 1)]),
        ("a: b: c\n", [("D101", 1, 5)]),
        ("a: \x00\n", [("D101", 1, 4)]),
        ("%YAML 3.0\n---\na: 1\n", [("D101", 1, 1)]),
    ],
)
def test_mistakes_have_a_code_and_a_place(text: str | bytes, found: list[tuple[str, int, int]]) -> None:
    assert errors_of(text) == found


def test_depth_is_bounded() -> None:
    assert data_of("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    assert errors_of("a: " + "[" * MAX_DEPTH + "x" + "]" * MAX_DEPTH)[0][0] == "D108"
    assert errors_of("a: " + "[" * 200_000)[0][0] == "D108"


def test_aliases_are_bounded() -> None:
    """Nine levels of nine aliases would be 387 million values."""
    levels = [
        f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(levels)

    assert errors_of(bomb)[0][0] == "D108"
    assert errors_of("a: &a 1\nb: [" + "*a, " * (MAX_ALIASES + 1) + "]\n")[0][0] == "D108"


def test_size_is_bounded() -> None:
    assert errors_of("a: " + "x" * MAX_CHARACTERS)[0][0] == "D108"


def test_the_fast_parser_is_used_where_it_is_there() -> None:
    assert yaml.__with_libyaml__, "PyYAML's wheels carry libyaml"
