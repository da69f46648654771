"""The page: whole without a network, deaf to what texts want to be, readable in colour and without."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import HOSTILE, SPEC, samples

from dynamoc.launcher.report.compared import compare_results
from dynamoc.launcher.report.page import SCRIPTS, TEMPLATES, embed, to_html
from dynamoc.launcher.report.view import make_view


@pytest.fixture(scope="module")
def page() -> str:
    results = samples()
    return to_html(
        make_view(results, results.limits, 2.5, Path("/reports")), compare_results(results, results)
    ).decode()


class Elements(HTMLParser):
    """Every element with its attributes, and the text of all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_no_text_of_a_file_becomes_an_element(page: str) -> None:
    elements = Elements(page).found

    assert not [tag for tag, _ in elements if tag in ("img", "b", "iframe", "object")]
    assert not [attributes for _, attributes in elements if any(name.startswith("on") for name in attributes)]
    assert sum(tag == "script" for tag, _ in elements) == len(SCRIPTS) + 2


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    elements = Elements(page).found
    linked = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]

    assert all(value is not None and value.startswith(("./", "#")) for value in linked)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_specs_come_back_whole(page: str) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])

    assert "\n".join(data["lines"][line] for line in data["specs"][0]) == SPEC
    assert data["view"]["points"][5]["name"] == f"replicas {HOSTILE}"


@given(st.text())
def test_embedded_data_is_what_it_was_and_ends_no_script(text: str) -> None:
    written = embed({"text": text})

    assert json.loads(written) == {"text": text}
    assert not set("<>&\u2028\u2029") & set(written)


def test_no_script_of_ours_ends_its_own_element() -> None:
    assert not [name for name in SCRIPTS if "</script" in (TEMPLATES / name).read_text()]


def test_scripts_make_no_markup_of_text() -> None:
    sinks = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function")

    assert not [name for name in SCRIPTS if sinks.search((TEMPLATES / name).read_text())]


def palettes() -> Iterator[dict[str, str]]:
    css = (TEMPLATES / "report.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        yield dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))


def luminance(color: str) -> float:
    """As WCAG 2.2 defines it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", list(palettes()), ids=["light", "dark", "print"])
def test_colours_have_contrast_enough(palette: dict[str, str]) -> None:
    """4.5 for text, 3 for marks and lines that mean something."""
    for back in ("page", "panel"):
        texts = {name: contrast(palette[name], palette[back]) for name in ("ink", "quiet", "link", "target")}
        assert {name: ratio for name, ratio in texts.items() if ratio < 4.5} == {}
    marks = {
        name: contrast(palette[name], palette["page"]) for name in ("valid", "front", "suspect", "invalid", "chosen")
    }
    assert {name: ratio for name, ratio in marks.items() if ratio < 3} == {}


def test_standings_differ_by_more_than_colour() -> None:
    charts = (TEMPLATES / "charts.js").read_text()
    symbols = re.search(r"SYMBOLS = \{(.*?)\}", charts)
    assert symbols is not None

    assert len(set(re.findall(r'"([a-z-]+)"', symbols[1]))) == 3


def test_templates_count_nothing() -> None:
    template = (TEMPLATES / "report.html.j2").read_text()
    words = re.findall(r"\{[{%](.*?)[}%]\}", template, re.DOTALL)

    assert not [word for word in words if re.search(r"\s[*/+-]\s", re.sub(r'"[^"]*"', "", word))]
