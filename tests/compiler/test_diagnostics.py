"""Diagnostics: rendering, edits, waivers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.compiler.diagnostics import (
    Change,
    CompileError,
    Diagnostic,
    Drop,
    Label,
    Put,
    Remedy,
    Rename,
    Reporter,
    Severity,
    Span,
    Waiver,
    scalar_text,
    spell,
)
from dynamoc.compiler.edits import apply, edit
from dynamoc.compiler.read import reporter_for
from dynamoc.compiler.render import display_width, render_json, render_text
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.source import read_source

NAMES = st.sampled_from(["a", "b", "ccc", "d-e", "über", "漢字", "x y"])
SCALARS = st.one_of(
    st.integers(-99, 99), st.booleans(), st.sampled_from(["x", "a -> b", "", "no", "1", "é: #", "512 MiB"])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)


def at(line: int, column: int, length: int, text: str = "", file: str = "f.yaml") -> Label:
    return Label(Span(file, line, column, length), text)


def error(*labels: Label, **fields: Any) -> Diagnostic:
    return Diagnostic("D110", Severity.ERROR, "a fact", labels, **fields)


def test_a_report_looks_like_rustc() -> None:
    text = "\n".join(f"line{n}: value" for n in range(1, 13))
    found = error(
        at(12, 9, 5, "primary"), at(3, 8, 5, "secondary"), at(4, 1, 5), notes=("1 + 1 = 2",), helps=("two\nlines",)
    )

    assert render_text([found], {"f.yaml": text}).splitlines() == [
        "error[D110]: a fact",
        "  --> f.yaml:12:9",
        "   |",
        " 3 | line3: value",
        "   |        ----- secondary",
        " 4 | line4: value",
        "   | -----",
        "...",
        "12 | line12: value",
        "   |         ^^^^^ primary",
        "   |",
        "   = note: 1 + 1 = 2",
        "   = help: two",
        "           lines",
        "",
        "1 error",
    ]


def test_labels_of_two_files() -> None:
    found = error(at(1, 1, 1, "here"), at(1, 1, 4, "there", "site.yaml"))

    lines = render_text([found], {"f.yaml": "a: 1", "site.yaml": "name: x"}).splitlines()

    assert lines[1] == " --> f.yaml:1:1"
    assert lines[5] == " ::: site.yaml:1:1"
    assert lines[8] == "  | ---- there"


def test_carets_stand_under_wide_and_combining_characters() -> None:
    text = "漢字e\u0301: bad"

    line = render_text([error(at(1, 7, 3))], {"f.yaml": text}).splitlines()[4]

    assert line.index("^") - len("  | ") == display_width("漢字e\u0301: ") == 7


def test_colour_only_adds_escapes() -> None:
    found = [error(at(1, 1, 1, "x"), notes=("n",), helps=("h",))]
    colored = render_text(found, {"f.yaml": "a: 1"}, color=True)

    assert "\x1b[1;31merror[D110]" in colored
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == render_text(found, {"f.yaml": "a: 1"})


def test_findings_come_in_the_order_of_the_text_and_are_counted() -> None:
    warning = Diagnostic("D207", Severity.WARNING, "later", (at(2, 1, 1),))

    text = render_text([error(), warning, error(at(1, 5, 1)), error(at(1, 1, 1))], {"f.yaml": "a\nb"})

    assert [line.split(":")[0] for line in text.splitlines() if "[D" in line] == [
        "error[D110]",
        "error[D110]",
        "warning[D207]",
        "error[D110]",
    ]
    assert text.endswith("3 errors, 1 warning\n")
    assert render_text([], {}) == ""


def test_json_holds_the_whole_record() -> None:
    source = read_source("a: 1\n", "f.yaml")
    report = reporter_for(source)
    report.error("D110", "`ü` is wrong", (("a",), "here"), notes=["n"], remedies=[Remedy((Put(("a",), 2),))])

    (line,) = render_json(report.diagnostics).splitlines()

    assert json.loads(line) == {
        "code": "D110",
        "severity": "error",
        "message": "`ü` is wrong",
        "labels": [{"span": {"file": "f.yaml", "line": 1, "column": 4, "length": 1}, "text": "here"}],
        "notes": ["n"],
        "helps": [],
        "fixes": [{"help": "set `a` to `2`", "edits": [{"start": 3, "end": 4, "text": "2"}]}],
    }


def test_a_waived_error_is_a_warning_with_its_reason() -> None:
    report = Reporter(lambda path, key: None, waivers=[Waiver("D503", "we know", ("allow", 0)), Waiver("D504", "", ())])
    report.error("D503", "heads", notes=["9 / 2"])
    report.stop_on_errors()

    assert report.diagnostics[0].severity is Severity.WARNING
    assert report.diagnostics[0].notes == ("9 / 2", "allowed by the spec: we know")
    assert [waiver.code for waiver in report.unused_waivers()] == ["D504"]

    report.error("D505", "layers")
    with pytest.raises(CompileError, match="D505: layers"):
        report.stop_on_errors()


def test_the_same_finding_twice_is_one() -> None:
    report = Reporter(lambda path, key: None)
    report.error("D503", "heads")
    report.error("D503", "heads")

    assert len(report.diagnostics) == 1


def test_what_a_worker_inherits_is_marked_and_mended_in_defaults() -> None:
    source = read_source("defaults: {block_size: 16}\ncomponents: {p: {role: prefill}}\n", "f.yaml")
    report = reporter_for(source)
    report.error(
        "D506",
        "x",
        (("components", "p", "block_size"), ""),
        remedies=[Remedy((Put(("components", "p", "block_size"), 8),))],
    )
    (found,) = report.diagnostics

    assert found.labels[0].span.line == 1
    assert found.fixes[0].help == "set `defaults.block_size` to `8`"
    assert apply(source.text, found.fixes[0].edits).startswith("defaults: {block_size: 8}")


def test_paths_are_spelled_as_users_read_them() -> None:
    assert spell(("components", "decode", "parallel", "tp")) == "`decode.parallel.tp`"
    assert spell(("edges", 1, "to")) == "`edges[1].to`"
    assert spell(("components",)) == "`components`"
    assert spell(()) == "the file"


@given(VALUES)
def test_a_spelled_value_reads_as_itself(value: Any) -> None:
    assert plain(read_source(f"a: {scalar_text(value)}\n", "f.yaml").data) == {"a": value}


DOCUMENT = """\
# a comment
first: {a: 1, b: [x, y], c: {}}   # trailing
second:
  deep:
    - name: one
      size: 1

    # about two
    - name: two
    - [p, q]
  last: "text"
empty:
list: []
words:
  - alpha -> beta   # words
  - gamma
text: |
  some
  lines
"""


def changed(data: Any, change: Change) -> Any:
    """The same change on plain data: what the edit must amount to."""
    path = change.path
    parent = data
    for index, word in enumerate(path[:-1]):
        if isinstance(parent, dict) and parent.get(word) is None:
            parent[word] = {} if isinstance(path[index + 1], str) else []
        parent = parent[word]
    match change:
        case Drop():
            del parent[path[-1]]
        case Rename(_, name):
            parent[name] = parent.pop(path[-1])
        case Put(_, value) if isinstance(parent, list) and path[-1] == len(parent):
            parent.append(value)
        case Put(_, value):
            parent[path[-1]] = value
    return data


CHANGES: list[Change] = [
    Put(("first", "a"), 2),
    Put(("first", "z"), "new"),
    Put(("first", "c", "x", "y"), 1),
    Put(("first", "b", 1), {"k": [1, 2]}),
    Put(("first", "b", 2), "z"),
    Put(("second", "deep", 0, "size"), 10),
    Put(("second", "deep", 0, "more"), True),
    Put(("second", "deep", 1, "more"), True),
    Put(("second", "deep", 3), "three"),
    Put(("second", "deep", 2, 2), "r"),
    Put(("second", "deep"), "flat"),
    Put(("second", "last"), "other words"),
    Put(("empty",), 5),
    Put(("empty", "inner"), 5),
    Put(("list", 0), "a -> b"),
    Put(("words", 0), "alpha -> gamma"),
    Put(("words", 2), "delta"),
    Put(("brand", "new"), {"x": 1}),
    Put(("text",), "short"),
    Drop(("first", "a")),
    Drop(("first", "c")),
    Drop(("first", "b", 0)),
    Drop(("first", "b", 1)),
    Drop(("first",)),
    Drop(("second", "deep", 0)),
    Drop(("second", "deep", 1)),
    Drop(("second", "deep", 0, "name")),
    Drop(("second", "deep", 0, "size")),
    Drop(("second", "deep", 2)),
    Drop(("second", "last")),
    Drop(("second",)),
    Drop(("words", 1)),
    Drop(("text",)),
    Rename(("second", "deep", 0, "size"), "length"),
    Rename(("text",), "a b"),
]


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_edit_changes_what_it_says_and_nothing_else(change: Change, ending: str) -> None:
    text = DOCUMENT.replace("\n", ending)
    source = read_source(text, "f.yaml")
    edits = edit(source, [change])

    assert edits is not None
    assert plain(read_source(apply(text, edits), "f.yaml").data) == changed(plain(source.data), change)


def test_several_changes_are_one_fix() -> None:
    source = read_source(DOCUMENT, "f.yaml")
    changes: list[Change] = [Put(("words", 0), "x"), Rename(("first", "a"), "aa"), Drop(("second", "last"))]
    edits = edit(source, changes)

    assert edits is not None
    data = plain(read_source(apply(DOCUMENT, edits), "f.yaml").data)
    assert (data["words"][0], data["first"]["aa"], "last" in data["second"]) == ("x", 1, False)


def test_the_only_entry_of_a_block_goes_with_its_key() -> None:
    source = read_source("a:\n  b:\n    c: 1\nd: 2\n", "f.yaml")
    edits = edit(source, [Drop(("a", "b", "c"))])

    assert edits is not None
    assert apply(source.text, edits) == "d: 2\n"


@pytest.mark.parametrize("change", [Put(("b", "x"), 2), Drop(("b", "x")), Rename(("b", "x"), "y")], ids=str)
def test_what_an_alias_shares_is_not_edited(change: Change) -> None:
    source = read_source("a: &x {x: 1}\nb: *x\n", "f.yaml")

    assert edit(source, [change]) is None


def test_what_cannot_be_edited_is_advice_in_words() -> None:
    report = reporter_for(read_source("a: &x {x: 1}\nb: *x\n", "f.yaml"))
    report.error("D110", "m", remedies=[Remedy((Put(("b", "x"), 2), Drop(("b", "y"))))])

    assert report.diagnostics[0].helps == ("set `b.x` to `2` and remove `b.y`",)
    assert report.diagnostics[0].fixes == ()


def test_changes_without_a_place_make_no_edit() -> None:
    source = read_source("a: 1\nb: []\n", "f.yaml")

    assert edit(source, [Drop(("z",))]) is None
    assert edit(source, [Rename(("z",), "y")]) is None
    assert edit(source, [Put(("a", "x"), 1)]) is None
    assert edit(source, [Put(("b", "x"), 1)]) is None


@given(st.text())
def test_nothing_that_is_printed_controls_a_terminal(text: str) -> None:
    line = text.replace("\n", " ")
    found = Diagnostic("D110", Severity.ERROR, line, (at(1, 1, 1, line),), (line,), (line,))

    printed = render_text([found], {"f.yaml": line})

    assert not {c for c in printed if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0}


def test_of_a_very_long_line_what_stands_around_the_place_is_shown() -> None:
    text = "a: " + "x" * 5000 + " y" + "z" * 5000
    found = Diagnostic("D113", Severity.ERROR, "wrong", (Label(Span("f", 1, 5005, 1), "here"),))
    line, marker = render_text([found], {"f": text}).split("\n")[3:5]

    assert len(line) < 500
    assert line[marker.index("^")] == "y"
