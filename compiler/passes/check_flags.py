"""What the flags in `args` say agrees with itself and with the spec; what no table knows is listed."""

from __future__ import annotations

from typing import Any

from dynamoc.compiler.diagnostics import Drop, Path, Remedy, Reporter, spell
from dynamoc.compiler.dialect import dialect, kv_format
from dynamoc.compiler.flags import Flag, version_of
from dynamoc.compiler.graph import SIZES, Component, Graph, WorkerOptions

KINDS = {
    "int": "a whole number",
    "size": "a whole number above 0",
    "port": "a port, 1 to 65535",
    "float": "a number",
    "bool": "`true` or `false`",
    "str": "text",
    "list": "a list",
}
FIELDS = ("context_length", "max_batched_tokens", "max_sequences", "block_size", "kv_dtype", "dtype", "prefix_caching")


def check_flags(graph: Graph, report: Reporter) -> Graph:
    """D521 a flag twice, D522 against the spec, D523 gone; D527 a field without flag; as warnings D524 of a
    wrong type, D526 not there yet."""
    for component in graph.components:
        options = component.worker
        if options is None or not dialect(options.engine).capabilities.external:
            continue
        at: Path = (*component.at, "args")
        for path in options.reading.unknown:
            report.leave_unchecked(f"{spell((*at, *path))}: not a flag that is known of {options.engine}")
        for key in dialect(options.engine).unsaid(options):
            report.leave_unchecked(f"{spell((*at, key))}: {options.engine} is not told what is `false`")
        for path in options.reading.mistyped:
            _report_type(component, options, path, report)
        for first, second in options.reading.clashes:
            _report_clash(component, first, second, report)
        for path, flag in options.reading.flags.items():
            if flag.gone is not None or flag.new is not None:
                _check_version(component, options, path, flag, report)
        _check_fields(component, options, report)
        for fact in dialect(options.engine).unspelled(options):
            _report_unspelled(component, options, fact, report)
    return graph


def _check_fields(component: Component, options: WorkerOptions, report: Reporter) -> None:
    """The spec and `args` may both say something, if they say the same."""
    sizes = {name: getattr(options.parallel, name) for name in SIZES if f"parallel.{name}" in options.written}
    fields = {name: getattr(options, name) for name in FIELDS if name in options.written}
    for name, value in (sizes | fields).items():
        said: Any = options.facts.get(name)
        if said is None or said == value or (name == "kv_dtype" and kv_format(str(said)) == kv_format(value)):
            continue
        field: Path = (*component.at, "parallel", name) if name in sizes else (*component.at, name)
        where = component.where(name)
        report.error(
            "D522",
            f"`{name}` of `{component.name}` is {value} in the spec and {said} in `args`",
            (where, f"{said} here"),
            (field, f"{value} here"),
            remedies=[Remedy((Drop(where),)), Remedy((Drop(field),))],
        )


def _report_unspelled(component: Component, options: WorkerOptions, fact: str, report: Reporter) -> None:
    field = {"kv_bytes": "kv_memory"}.get(fact, fact)
    path = component.where(field)
    report.error(
        "D527",
        f"engine `{options.engine}` cannot be told `{field}`",
        (path, "it has no flag for it"),
        at_key=True,
        remedies=[Remedy((Drop(path),))],
    )


def _report_clash(component: Component, first: Path, second: Path, report: Reporter) -> None:
    at: Path = (*component.at, "args")
    report.error(
        "D521",
        f"{spell((*at, *second))} and `{first[-1]}` are one flag with two values",
        ((*at, *second), "another value"),
        ((*at, *first), "the same flag"),
        at_key=True,
        remedies=[Remedy((Drop((*at, *second)),)), Remedy((Drop((*at, *first)),))],
    )


def _check_version(component: Component, options: WorkerOptions, path: Path, flag: Flag, report: Reporter) -> None:
    """Only where the version that runs is known; between the versions of the table nothing is claimed."""
    at: Path = (*component.at, "args", *path)
    version, gone, new = version_of(options.version), version_of(flag.gone), version_of(flag.new)
    if version is None:
        if gone is not None:
            report.leave_unchecked(f"{spell(at)}: {options.engine} {flag.gone} lacks it, and no version is given")
    elif gone is not None and version >= gone:
        label = "gone" if flag.renamed is None else f"`{flag.renamed}` took its place"
        report.error(
            "D523",
            f"{options.engine} {options.version} has no flag `{path[-1]}`",
            (at, label),
            notes=[f"{options.engine} {flag.gone} does not have it any more"],
            at_key=True,
            remedies=[Remedy((Drop(at),))],
        )
    elif new is not None and version <= new:
        report.warning(
            "D526",
            f"{options.engine} {options.version} does not have the flag `{path[-1]}` yet",
            (at, "newer than the engine"),
            notes=[f"{options.engine} {flag.new} does not have it"],
            at_key=True,
            remedies=[Remedy((Drop(at),))],
        )


def _report_type(component: Component, options: WorkerOptions, path: Path, report: Reporter) -> None:
    at: Path = (*component.at, "args", *path)
    kind = KINDS[options.reading.flags[path].type]
    report.warning("D524", f"{spell(at)} is not {kind}", (at, f"{options.engine} expects {kind} here"))
