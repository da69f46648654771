"""Every code has a page, and every page is true."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from proving import ROOT, TRACE_NAME, prove, prove_campaign

from dynamoc.compiler.codes import CODES
from dynamoc.launcher.cli import root

FOLDER = ROOT / "docs/errors"
PAGES = sorted(FOLDER.glob("*.md"))
HEADINGS = ["Why", "Example", "Use instead"]


class Page:
    """A page, cut at its headings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        self.title, *rest = re.split(r"^## (.*)$\n", self.text, flags=re.MULTILINE)
        self.headings = rest[::2]
        self.sections = dict(zip(rest[::2], rest[1::2], strict=True))

    def fenced(self, section: str, info: str) -> list[str]:
        return re.findall(rf"^```{info}\n(.*?)^```$", self.sections[section], re.MULTILINE | re.DOTALL)

    def verdict(self, section: str) -> Any:
        """`\\xNN` in a spec stands for a byte, as some mistakes cannot be written in a page."""
        (spec,) = self.fenced(section, "yaml")
        clusters = self.fenced(section, "yaml cluster")
        content = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), spec.encode())
        target = re.match(rb"# for the target `(\w+)`\n", content)
        if b"\ncampaign: " in content:
            return prove_campaign(content)
        traces = self.fenced(section, f"jsonl {TRACE_NAME}")
        return prove(
            content,
            clusters[0] if clusters else None,
            target[1].decode() if target else "local",
            traces[0] if traces else None,
        )


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert set(CODES) == {path.stem for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_built_like_the_others(path: Path) -> None:
    page = Page(path)

    assert page.title.strip() == f"# {path.stem}: {CODES[path.stem]}"
    assert page.headings == HEADINGS
    assert len(page.sections["Why"].split()) >= 8


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_example_is_this_error_as_it_is_printed(path: Path, golden: Any) -> None:
    page = Page(path)
    verdict = page.verdict("Example")
    (shown,) = page.fenced("Example", "text")

    assert set(verdict.codes) == {path.stem}
    golden.check(path, page.text.replace(f"```text\n{shown}```", f"```text\n{verdict.rendered}```"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_to_use_instead_is_clean(path: Path) -> None:
    assert Page(path).verdict("Use instead").rendered == ""


@pytest.mark.parametrize("code", CODES)
def test_explain_prints_the_page(code: str) -> None:
    result = CliRunner().invoke(root, ["explain", code.lower()])

    assert result.exit_code == 0
    assert result.output == (FOLDER / f"{code}.md").read_text()


def test_explain_of_an_unknown_code_names_the_nearest() -> None:
    result = CliRunner().invoke(root, ["explain", "D1111"])

    assert result.exit_code == 2
    assert "there is no code `D1111`; did you mean `D111`?" in result.output


def test_the_pages_are_part_of_the_package() -> None:
    package = Path(sys.modules["dynamoc"].__file__ or "").parent

    assert {path.name for path in (package / "errors").glob("*.md")} == {path.name for path in PAGES}
