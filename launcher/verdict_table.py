"""Verdicts as a page: counts, then every file, and every point of a grid, with rule and arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamoc.compiler.importers.verdict import Verdict

HEAD = """# Verdicts over public recipes

What `dynamoc import FOLDER --verdicts OUT.jsonl --table OUT.md` says of a folder of public recipes: {summary}.

A recipe or point is **accepted**, **warned** (it can run, and something is odd) or **rejected** (by a rule, with its
arithmetic; `dynamoc explain CODE` says why). GPUs are those its workers need, of those it allots to them.

"""
REASON = 200
"""Characters of a reason that are shown."""


def to_table(verdicts: Sequence[Verdict]) -> str:
    """The page; the same verdicts give the same text."""
    from dynamoc.launcher.verdicts import summary

    return HEAD.format(summary=summary(verdicts)) + "\n".join(_page(verdicts)) + "\n"


def _page(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from ("## By rule", "", "| verdict | rules | recipes | grid points |", "| --- | --- | ---: | ---: |")
    counts = Counter((v.verdict, _codes(v), bool(v.point)) for v in verdicts)
    for kind, codes in sorted({key[:2] for key in counts}):
        yield f"| {kind} | {codes} | {counts[kind, codes, False]} | {counts[kind, codes, True]} |"
    yield from ("", "## Recipes without a grid", "", "| recipe | verdict | GPUs | rule and arithmetic |")
    yield "| --- | --- | ---: | --- |"
    for verdict in verdicts:
        if not verdict.point:
            yield f"| {verdict.file} | {verdict.verdict} | {_gpus(verdict)} | {_why(verdict)} |"
    for file, points in groupby((v for v in verdicts if v.point), key=attrgetter("file")):
        yield from _grid(file, list(points))


def _grid(file: str, points: Sequence[Verdict]) -> Iterator[str]:
    """Points of one file; those of one verdict and one arithmetic share a line."""
    yield from ("", f"## {file}", "", "| points | verdict | GPUs | rule and arithmetic |", "| --- | --- | ---: | --- |")
    lines: dict[tuple[str, str, str], list[str]] = {}
    for point in points:
        lines.setdefault((point.verdict, _gpus(point), _why(point)), []).append(point.point.replace(", ", " "))
    for (verdict, gpus, why), names in lines.items():
        yield f"| {'; '.join(names)} | {verdict} | {gpus} | {why} |"


def _codes(verdict: Verdict) -> str:
    return " ".join(sorted(verdict.codes)) or "–"


def _gpus(verdict: Verdict) -> str:
    return f"{verdict.gpus_needed} of {verdict.gpus_allocated}"


def _why(verdict: Verdict) -> str:
    reasons = " / ".join(verdict.reasons).replace("|", "\\|").replace("\n", " ")
    shown = reasons if len(reasons) <= REASON else f"{reasons[: REASON - 1]}…"
    return f"{' '.join(verdict.codes)}: {shown}" if verdict.codes else shown
