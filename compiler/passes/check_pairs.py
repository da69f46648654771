"""Both sides of a KV edge agree on what the bytes of a block mean."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, EdgeKind, Graph, Parallelism, WorkerOptions


def check_pairs(graph: Graph, report: Reporter) -> Graph:
    """D520 between engines of ours, once for every field that differs."""
    for edge in graph.edges:
        source, target = graph.component(edge.source), graph.component(edge.target)
        if edge.kind is not EdgeKind.KV or source.worker is None or target.worker is None:
            continue
        if not any(dialect(options.engine).capabilities.external for options in (source.worker, target.worker)):
            _check_pair(source, source.worker, target, target.worker, report)
    return graph


def _check_pair(
    source: Component, ours: WorkerOptions, target: Component, theirs: WorkerOptions, report: Reporter
) -> None:
    fields: list[Path] = [("engine",), ("block_size",), ("dtype",)]
    if any(options.kv_dtype != options.dtype for options in (ours, theirs)):
        fields.append(("kv_dtype",))
    if dialect(ours.engine).capabilities.shards_blocks:
        fields.append(("parallel", "tp"))
    for path in fields:
        left, right = _value(ours, path), _value(theirs, path)
        if left != right:
            report.error(
                "D520",
                f"`{source.name}` and `{target.name}` disagree on `{'.'.join(map(str, path))}`",
                ((*target.at, *path), f"`{right}` in `{target.name}`"),
                ((*source.at, *path), f"`{left}` in `{source.name}`"),
                notes=[f"`{source.name} -> {target.name}` moves KV block by block, byte for byte"],
                remedies=[Remedy((Put((*target.at, *path), left),))],
            )


def _value(options: WorkerOptions, path: Path) -> str | int:
    value: str | int | Parallelism = getattr(options, str(path[0]))
    return value.tp if isinstance(value, Parallelism) else value
