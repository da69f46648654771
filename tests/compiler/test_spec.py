"""Whatever the text is, the answer is a plan or diagnostics inside the file: never an exception."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proving import CLUSTER_NAME, LAPTOP, ROOT, SPEC_NAME, Verdict, prove

from dynamoc.compiler.diagnostics import scalar_text
from dynamoc.compiler.edits import apply, children_of, value_at
from dynamoc.compiler.source import read_source
from dynamoc.compiler.units import QuantityError, parse_duration, parse_size

GRAPHS = sorted((ROOT / "specs/graphs").glob("*.yaml"))
BASES = [path.read_text() for path in GRAPHS]
FRAGMENTS = [
    *(
        "{",
        "}",
        "[",
        "]",
        ":",
        "- ",
        "\n",
        "  ",
        "\t",
        "#",
        '"',
        "'",
        "|",
        ">",
        "&a",
        "*a",
        "<<: ",
        "!x ",
        "%",
        "---\n",
    ),
    *("->", "0", "-1", "1e9", "010", "null", "true", "~", ".nan", ".inf", "9" * 30, "é", "漢", "\ufeff", "\x00", "\r"),
    *("role", "prefill", "frontend", "router: ", "replicas: ", "kv_blocks: 1", "? ", "edges", "args: {a: .inf}", "..."),
]
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1,
        7,
        10**30,
        0.5,
        "x",
        "",
        "no",
        "prefill",
        "a -> b",
        "512 MiB",
        "1 h",
        [],
        {},
        ["x"],
        {"x": 1},
    ]
)


def assert_inside(verdict: Verdict, text: str) -> None:
    lines = {SPEC_NAME: text.removeprefix("\ufeff").split("\n"), CLUSTER_NAME: LAPTOP.split("\n")}
    for label in (label for finding in verdict.diagnostics for label in finding.labels):
        line = lines[label.span.file][label.span.line - 1]

        assert 1 <= label.span.column <= len(line) + 1
        assert label.span.column + label.span.length - 1 <= len(line) + 1


def mutated(text: str, rng: random.Random) -> str:
    """A few random cuts, repetitions and insertions."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randint(0, 12))
        middle = rng.choice(["", text[start:end] * 2, rng.choice(FRAGMENTS)])
        text = text[:start] + middle + text[end:]
    return text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BASES), st.integers(0, 2**32))
def test_a_mutated_text_gets_diagnostics_inside_the_file(base: str, seed: int) -> None:
    text = mutated(base, random.Random(seed))

    assert_inside(prove(text), text)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_get_diagnostics(content: bytes) -> None:
    assert prove(content).errors


def paths_of(data: Any) -> list[tuple[str | int, ...]]:
    found: list[tuple[str | int, ...]] = [()]
    for path in found:
        found += children_of(value_at(data, path), path)
    return found[1:]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(BASES), st.data())
def test_a_wrong_value_anywhere_gets_diagnostics_whose_fixes_apply(base: str, data: st.DataObject) -> None:
    """Fixes leave a text that can be read, and never make matters worse for the finding they belong to."""
    source = read_source(base, SPEC_NAME)
    place = source.places[data.draw(st.sampled_from(paths_of(source.data)))]
    text = base[: place.value[0]] + scalar_text(data.draw(VALUES)) + base[place.value[1] :]
    verdict = prove(text)
    assert_inside(verdict, text)
    for finding in verdict.errors:
        for fix in finding.fixes:
            cured = prove(apply(text, fix.edits))

            assert (finding.code, finding.message) not in {(d.code, d.message) for d in cured.errors}
            assert not {d.code for d in cured.errors} & {"D101", "D102"}


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_the_shipped_graphs_are_clean(path: Any) -> None:
    assert prove(path.read_text()).rendered == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [("512 MiB", 512 * 2**20), ("1.5GiB", 3 * 2**29), ("10 MB", 10**7), ("1 B", 1), ("2 TiB", 2**41), ("4 KiB", 4096)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("2 s", 2.0), ("30ms", 0.03), ("1.5 min", 90.0), ("2 h", 7200.0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("512 mib", "512 MiB"),
        ("512M", "512 MiB"),
        ("64g", "64 GiB"),
        ("512", "512 MiB"),
        ("536870912", "536870912 B"),
        ("0 MiB", "1 MiB"),
        ("0.2 B", "1 B"),
        ("lots", None),
        ("-1 MiB", None),
        ("1  MiB", None),
        ("5 parsec", None),
        (True, None),
        (None, None),
    ],
)
def test_malformed_sizes_and_what_was_meant(text: Any, near: str | None) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_size(text)

    assert caught.value.near == near
    if near is not None:
        parse_size(near)


@pytest.mark.parametrize(
    ("text", "near"), [("30 seconds", "30 s"), ("5", "5 s"), ("5 M", None), ("1 H", "1 h"), ("0 s", "1 s")]
)
def test_malformed_durations_and_what_was_meant(text: str, near: str | None) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_duration(text)

    assert caught.value.near == near
