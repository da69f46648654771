"""Edges of the spec: chains such as `frontend -> router -> decode`, and mappings with a transport."""

from __future__ import annotations

import re
from itertools import pairwise

from dynamoc.compiler.cache_spec import CacheSpec
from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter
from dynamoc.compiler.graph import Edge, EdgeKind
from dynamoc.compiler.nearest import nearest
from dynamoc.compiler.spec import EdgeSpec, Spec, WorkerSpec

_WORD = re.compile(r"[A-Za-z0-9_-]*[A-Za-z0-9_]")
_ARROW_LIKE = re.compile(r"\s*(?:[-=]+>+|[→⟶>,])\s*")


def resolve_edges(spec: Spec, report: Reporter) -> tuple[Edge, ...]:
    """All edges in the order of the text; those with an unknown end are reported and left out."""
    edges: list[Edge] = []
    for index, entry in enumerate(spec.edges):
        at: Path = ("edges", index)
        if isinstance(entry, EdgeSpec):
            edges += _from_mapping(entry, at, spec, report)
        else:
            edges += _from_chain(entry, at, spec, report)
    return tuple(edges)


def unknown_component(name: str, at: Path, spec: Spec, report: Reporter, whole: str | None = None) -> None:
    """Report a name nothing is called; `whole` is the chain it stands in."""
    near = nearest(name, spec.components)
    remedies = []
    if near:
        cured = near if whole is None else re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", near, whole)
        path = at if whole is None else at[:-1]
        remedies.append(Remedy((Put(path, cured),), f"a component with a similar name exists: `{near}`"))
    notes = [] if near else [f"components are {', '.join(f'`{known}`' for known in spec.components)}"]
    report.error("D201", f"there is no component `{name}`", (at, "not a component"), notes=notes, remedies=remedies)


def _from_chain(chain: str, at: Path, spec: Spec, report: Reporter) -> list[Edge]:
    names = [name.strip() for name in chain.split("->")]
    if len(names) < 2 or not all(_WORD.fullmatch(name) for name in names):
        cured = _ARROW_LIKE.sub(" -> ", chain.strip())
        parts = cured.split(" -> ")
        good = len(parts) > 1 and all(_WORD.fullmatch(part) for part in parts)
        remedies = [Remedy((Put(at, cured),))] if good else []
        report.error("D202", f"`{chain}` is not an edge", (at, "expected names joined by `->`"), remedies=remedies)
        return []
    for name in dict.fromkeys(names):
        if name not in spec.components:
            unknown_component(name, (*at, name), spec, report, chain)
    pairs = [pair for pair in pairwise(names) if set(pair) <= set(spec.components)]
    return [Edge(source, target, _kind(spec, source, target), at=at) for source, target in pairs]


def _from_mapping(entry: EdgeSpec, at: Path, spec: Spec, report: Reporter) -> list[Edge]:
    ends = {"from": entry.from_, "to": entry.to}
    unknown = {end: name for end, name in ends.items() if name not in spec.components}
    for end, name in unknown.items():
        unknown_component(name, (*at, end), spec, report)
    if unknown:
        return []
    kind = _kind(spec, entry.from_, entry.to)
    if kind is not EdgeKind.KV and entry.transport is not None:
        where: Path = (*at, "transport")
        message = f"the edge `{entry.from_} -> {entry.to}` moves no KV"
        label = (where, "a transport moves blocks between workers")
        report.error("D203", message, label, remedies=[Remedy((Drop(where),))])
    return [Edge(entry.from_, entry.to, kind, entry.transport, at=at)]


def _kind(spec: Spec, source: str, target: str) -> EdgeKind:
    """Between workers an edge moves KV; what leads to a cache says who keeps blocks there; all else is requests."""
    if isinstance(spec.components[target], CacheSpec):
        return EdgeKind.CACHE
    workers = all(isinstance(spec.components[name], WorkerSpec) for name in (source, target))
    return EdgeKind.KV if workers else EdgeKind.REQUEST
