"""Source -> Spec, and the reporter that knows the places of a source."""

from __future__ import annotations

from functools import partial

from dynamoc.compiler.diagnostics import Path, Reporter
from dynamoc.compiler.edits import edit
from dynamoc.compiler.shape import read_shape
from dynamoc.compiler.source import Source
from dynamoc.compiler.spec import Spec, part_at


def reporter_for(source: Source) -> Reporter:
    """A reporter that marks and edits the text; what a worker has from `defaults` is marked and edited there."""

    def home(path: Path) -> Path:
        if path[:1] != ("components",) or len(path) < 3 or path in source.places:
            return path
        inherited = ("defaults", *path[2:])
        return inherited if inherited in source.places else path

    return Reporter(source.locate, partial(edit, source), home)


def read_spec(source: Source, report: Reporter) -> Spec:
    """The spec of a source; CompileError if its shape is wrong."""
    spec = read_shape(Spec, part_at, source, report)
    report.stop_on_errors()
    assert spec is not None
    return spec
