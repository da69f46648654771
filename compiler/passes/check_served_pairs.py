"""Prefill and decode workers of engines that are programs of their own agree on what they send each other."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect, kv_format
from dynamoc.compiler.graph import Component, EdgeKind, Graph, WorkerOptions

NOTES = {
    "D520": "{} moves KV block by block, byte for byte",
    "D528": "{} moves KV by one transport, which both sides speak",
}
UNSAID = ("auto", "default", "")
"""What leaves the choice to the engine, which may choose the same."""


def check_served_pairs(graph: Graph, report: Reporter) -> Graph:
    """D520 engine, format of KV and block size; D528 how KV moves. Only what both sides say is compared."""
    for edge in graph.edges:
        source, target = graph.component(edge.source), graph.component(edge.target)
        if edge.kind is EdgeKind.KV and source.worker is not None and target.worker is not None:
            sides = (source.worker, target.worker)
            if any(dialect(options.engine).capabilities.external for options in sides):
                _check_pair(source, source.worker, target, target.worker, report)
    return graph


def _check_pair(
    source: Component, ours: WorkerOptions, target: Component, theirs: WorkerOptions, report: Reporter
) -> None:
    if ours.engine != theirs.engine:
        _report("D520", "engine", source, ours.engine, target, theirs.engine, report)
        return
    _compare("D520", "kv_dtype", source, ours, target, theirs, report)
    _compare("D520", "block_size", source, ours, target, theirs, report)
    _compare("D528", "kv_transport", source, ours, target, theirs, report)


def _compare(
    code: str,
    fact: str,
    source: Component,
    ours: WorkerOptions,
    target: Component,
    theirs: WorkerOptions,
    report: Reporter,
) -> None:
    left, right = _said(ours, fact), _said(theirs, fact)
    if left is None and right is None:
        return
    if left is None or right is None:
        silent, speaks = (source, target) if left is None else (target, source)
        report.leave_unchecked(f"`{fact}` of `{silent.name}`, as only `{speaks.name}` says what it is")
    elif kv_format(left) != kv_format(right):
        resizes = fact == "block_size" and dialect(ours.engine).capabilities.resizes_blocks
        _report(code, fact, source, left, target, right, report, warns=resizes)


def _said(options: WorkerOptions, fact: str) -> str | None:
    """What the spec or `args` say; None where that is nothing, or the engine's choice."""
    value = getattr(options, fact) if fact in options.written else options.facts.get(fact)
    return None if value is None or str(value).lower() in UNSAID else str(value)


def _report(
    code: str,
    fact: str,
    source: Component,
    left: str,
    target: Component,
    right: str,
    report: Reporter,
    warns: bool = False,
) -> None:
    path = target.where(fact)
    (report.warning if warns else report.error)(
        code,
        f"`{source.name}` and `{target.name}` disagree on `{fact}`",
        (path, f"`{right}` in `{target.name}`"),
        (source.where(fact), f"`{left}` in `{source.name}`"),
        notes=[NOTES[code].format(f"`{source.name} -> {target.name}`")],
        remedies=[Remedy((Put(path, int(left) if left.isdecimal() else left),))]
        if fact in ("engine", "block_size", "kv_dtype") or _in_args(source, target, fact)
        else [],
    )


def _in_args(source: Component, target: Component, fact: str) -> bool:
    """Whether both say it by a flag of its own."""
    flags = [component.where(fact)[-1] for component in (source, target)]
    return flags[0] == flags[1]
