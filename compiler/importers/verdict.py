"""What the rules say of an imported recipe: the pipeline of every spec, on data that was never a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError, Diagnostic, Path, Reporter, Severity, Span
from dynamoc.compiler.graph import Graph
from dynamoc.compiler.importers.recipe import Imported
from dynamoc.compiler.importers.writing import to_text
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import plan_graph
from dynamoc.compiler.read import read_spec
from dynamoc.compiler.resolve import resolve
from dynamoc.compiler.source import Source, read_source

ACCEPTED, WARNED, REJECTED, FAILED = "accepted", "warned", "rejected", "failed"

Library = Callable[[Any], ModelLibrary]
"""What is known of the model of a spec, by its `model` section."""


class Verdict(msgspec.Struct, frozen=True):
    """One line of a table of verdicts. `reasons` are the findings with their arithmetic, or why the import failed."""

    file: str
    point: str
    verdict: str
    codes: tuple[str, ...] = ()
    gpus_needed: int = 0
    gpus_allocated: int = 0
    unmapped: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


class Judge:
    """Proves imported recipes; what many of them share is read once."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._clusters: dict[str, Cluster] = {}

    def verdict(self, file: str, imported: Imported) -> Verdict:
        """Every rule that does not depend on the target."""
        report = Reporter(_nowhere)
        graph: Graph | None = None
        try:
            spec = read_spec(Source(file, "", imported.spec), report)
            graph = resolve(spec, report, self._library(imported.spec["model"]))
            report.stop_on_errors()
            plan_graph(graph, self._cluster(imported), report)
        except CompileError as error:
            return self._line(file, imported, graph, report, error.diagnostics)
        return self._line(file, imported, graph, report, report.diagnostics)

    def _cluster(self, imported: Imported) -> Cluster:
        facts = repr(imported.cluster)
        if facts not in self._clusters:
            self._clusters[facts] = read_cluster(read_source(to_text(imported.cluster), "cluster.yaml"))
        return self._clusters[facts]

    def _line(
        self, file: str, imported: Imported, graph: Graph | None, report: Reporter, found: Sequence[Diagnostic]
    ) -> Verdict:
        errors = [diagnostic for diagnostic in found if diagnostic.severity is Severity.ERROR]
        counted = errors or found
        workers = [] if graph is None else [c for c in graph.components if c.worker is not None]
        return Verdict(
            file,
            imported.point,
            REJECTED if errors else WARNED if found else ACCEPTED,
            tuple(dict.fromkeys(diagnostic.code for diagnostic in counted)),
            sum(c.replicas * c.worker.parallel.gpus for c in workers if c.worker),
            sum(c.replicas * c.worker.allotted for c in workers if c.worker),
            imported.unmapped,
            tuple(report.unchecked),
            tuple("; ".join((diagnostic.message, *diagnostic.notes)) for diagnostic in counted),
        )


def _nowhere(path: Path, key: bool) -> Span | None:
    """There is no text to mark."""
    del path, key
    return None
