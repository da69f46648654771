"""Fields that would change nothing: nobody writes one without meaning something by it."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Drop, Path, Remedy, Reporter


def no_effect(at: Path, why: str, report: Reporter) -> None:
    """D116 of one field, with the reason."""
    report.error("D116", f"`{at[-1]}` has no effect", (at, why), at_key=True, remedies=[Remedy((Drop(at),))])
