"""One input meets the compiler: it may say anything about it, in place, and must not raise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError, Diagnostic, Span
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import emit, prove
from dynamoc.compiler.render import render_json, render_text
from dynamoc.compiler.source import Source, read_source
from dynamoc.compiler.target import load_target

ROOT = Path(__file__).parents[2]
NAME = "fuzzed.yaml"


class OutsideError(AssertionError):
    """A diagnostic points to a place that is not in the file."""


@dataclass(frozen=True)
class Outcome:
    """How far the input came, and the codes of what was said about it."""

    stage: str
    codes: tuple[str, ...]


def seeds(*, right_only: bool = False) -> list[bytes]:
    """All specs we ship and test, right and wrong, and all clusters."""
    folders = ("specs/graphs", "tests/golden/compile", "examples")
    folders += () if right_only else ("specs/clusters", "tests/golden/errors")
    files = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.yaml")))
    return [path.read_bytes() for path in files if path.name != "resolved.yaml"]


def cards() -> ModelLibrary:
    """The models we ship cards of."""
    folder = ROOT / "specs/models"
    return ModelLibrary({path.stem.replace("--", "/"): path.read_text() for path in folder.glob("*.yaml")})


def sites() -> list[Cluster]:
    """The inventories we ship."""
    folder = ROOT / "specs/clusters"
    return [read_cluster(read_source(path.read_bytes(), str(path))) for path in sorted(folder.glob("*.yaml"))]


def meet(content: bytes, site: Cluster, models: ModelLibrary) -> Outcome:
    """Read it, prove it as a spec and, if it is right, write its artifacts; read it as a cluster too."""
    text = content.decode("utf-8", "replace")
    try:
        source = read_source(content, NAME)
    except CompileError as error:
        return Outcome("source", said(error.diagnostics, text))
    if isinstance(source.data, dict) and "nodes" in source.data:
        return _as_cluster(source)
    target = load_target("local")
    proof = prove(source, site, models, target)
    codes = said(proof.diagnostics, source.text)
    if proof.plan is None:
        return Outcome("wrong", codes)
    emit(source, proof.plan, target, models)
    return Outcome("compiled", codes)


def _as_cluster(source: Source) -> Outcome:
    try:
        read_cluster(source)
    except CompileError as error:
        return Outcome("wrong cluster", said(error.diagnostics, source.text))
    return Outcome("cluster", ())


def said(diagnostics: Iterable[Diagnostic], text: str) -> tuple[str, ...]:
    """The codes, once every place was looked at and everything was rendered."""
    found = tuple(diagnostics)
    lines = text.removeprefix("\ufeff").split("\n")
    for diagnostic in found:
        for label in diagnostic.labels:
            _check_inside(label.span, lines)
    render_text(found, {NAME: text})
    render_json(found)
    return tuple(sorted({diagnostic.code for diagnostic in found}))


def _check_inside(span: Span, lines: list[str]) -> None:
    """The line is there, the column is on it; one past its end is where something is missing."""
    if not 1 <= span.line <= len(lines):
        raise OutsideError(f"line {span.line} of {len(lines)}")
    width = len(lines[span.line - 1])
    if not 1 <= span.column <= width + 1 or span.column + span.length - 1 > width + 1:
        raise OutsideError(f"line {span.line}, column {span.column}, length {span.length}, the line has {width}")
