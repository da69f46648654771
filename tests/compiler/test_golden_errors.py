"""Wrong specs through the whole compiler: what is printed, and that its helps help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from proving import CLUSTER_NAME, ROOT, SPEC_NAME, Verdict, prove

from dynamoc.compiler.codes import CODES
from dynamoc.compiler.diagnostics import Diagnostic
from dynamoc.compiler.edits import apply

FOLDER = ROOT / "tests/golden/errors"
CASES = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.endswith(".cluster.yaml"))


def cluster_of(case: Path) -> str | None:
    beside = case.with_suffix(".cluster.yaml")
    return beside.read_text() if beside.is_file() else None


def text_of(case: Path) -> str:
    return case.read_bytes().decode("utf-8", "replace").removeprefix("\ufeff")


def shapes(verdict: Verdict) -> set[tuple[str, str]]:
    """Errors without their places, which an edit moves."""
    return {(d.code, d.message) for d in verdict.errors}


def test_there_are_enough_cases_and_no_stray_files() -> None:
    expected = {case.with_suffix(".txt") for case in CASES}

    assert expected == set(FOLDER.glob("*.txt"))
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_what_is_printed(case: Path, golden: Any) -> None:
    verdict = prove(case.read_bytes(), cluster_of(case))

    assert verdict.diagnostics
    assert case.name[:1] != "d" or not case.name[1:4].isdigit() or case.name[:4].upper() in verdict.codes
    golden.check(case.with_suffix(".txt"), verdict.rendered)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_fix_cures_its_error_and_makes_no_other(case: Path) -> None:
    spec, cluster = text_of(case), cluster_of(case)
    before = prove(spec, cluster)
    for finding in before.diagnostics:
        for fix in finding.fixes:
            in_cluster = finding.labels[0].span.file == CLUSTER_NAME
            texts = (spec, apply(cluster or "", fix.edits)) if in_cluster else (apply(spec, fix.edits), cluster)
            after = prove(*texts)

            assert (finding.code, finding.message) not in {(d.code, d.message) for d in after.diagnostics}, fix
            assert len(after.errors) <= max(0, len(before.errors) - 1) or shapes(after) < shapes(before), fix


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_fixing_again_and_again_ends_with_a_spec_that_compiles(case: Path) -> None:
    """As long as the first error has a fix it is applied; only errors that nobody can fix for the user remain."""
    spec, cluster = text_of(case), cluster_of(case)
    verdict = prove(spec, cluster)
    for _ in range(20):
        fixable = next((d for d in verdict.errors if d.fixes), None)
        if fixable is None:
            break
        if fixable.labels[0].span.file == CLUSTER_NAME:
            cluster = apply(cluster or "", fixable.fixes[0].edits)
        else:
            spec = apply(spec, fixable.fixes[0].edits)
        verdict = prove(spec, cluster)

    assert not [d for d in verdict.errors if d.fixes]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_spans_lie_in_the_text_and_codes_are_known(case: Path) -> None:
    verdict = prove(case.read_bytes(), cluster_of(case))
    lines = {SPEC_NAME: text_of(case).split("\n"), CLUSTER_NAME: (cluster_of(case) or "").split("\n")}
    for finding in verdict.diagnostics:
        assert_styled(finding)
        for label in finding.labels:
            span = label.span

            assert 1 <= span.line <= len(lines[span.file])
            assert 1 <= span.column <= len(lines[span.file][span.line - 1]) + 1


def assert_styled(finding: Diagnostic) -> None:
    """The message is a fact, lower case or a name, without a full stop; at most three labels."""
    assert finding.code in CODES
    assert not finding.message.endswith(".")
    assert finding.message[0] in "`0123456789" or finding.message[0].islower() or finding.message[:2].isupper()
    assert len(finding.labels) <= 3
    assert all(isinstance(fix, msgspec.Struct) and fix.help for fix in finding.fixes)
