"""A cache belongs to workers whose engine keeps its tiers."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, EdgeKind, Graph, WorkerOptions
from dynamoc.compiler.tiers import sizes_of, without_cache, without_edge, without_tier
from dynamoc.runtime.manifest import Role


def check_caches(graph: Graph, report: Reporter) -> Graph:
    """D220 a cache without workers, D221 a worker with two, D222 without a tier, D530 one its engine does not keep.

    D116 where a wish about nodes names it.
    """
    used = {edge.target for edge in graph.edges}
    for cache in graph.of_role(Role.CACHE):
        if cache.name not in used:
            _report_idle(graph, cache, report)
        elif cache.cache is not None and not sizes_of(cache.cache):
            place: Path = (*cache.at, "tiers")
            notes = ["tiers are `host`, `disk` and `object`"]
            report.error("D222", f"`{cache.name}` has no tier", (place, "nothing is kept"), notes=notes)
    for component in graph.components:
        if component.cache is not None:
            _check_place(graph, component, report)
        if component.worker is not None:
            _check_single(graph, component, report)
            _check_engine(graph, component, component.worker, report)
    return graph


def _report_idle(graph: Graph, cache: Component, report: Reporter) -> None:
    named = any(cache.name in group for group in graph.same_node)
    report.error(
        "D220",
        f"no worker keeps blocks in `{cache.name}`",
        (cache.at, "no edge leads here"),
        at_key=True,
        remedies=[] if named or not cache.at else [Remedy((Drop(cache.at),))],
    )


def _check_place(graph: Graph, cache: Component, report: Reporter) -> None:
    """D116: it is where its workers are."""
    if any(cache.name in group for group in graph.same_node):
        path: Path = ("placement", "same_node")
        rest = [[name for name in group if name != cache.name] for group in graph.same_node]
        left = [group for group in rest if len(group) > 1]
        label = (path, "each worker keeps tiers on its own node")
        remedies = [Remedy((Put(path, left) if left else Drop(path),), f"leave `{cache.name}` out")]
        report.error("D116", f"`{cache.name}` has no effect in `same_node`", label, remedies=remedies)


def _check_single(graph: Graph, component: Component, report: Reporter) -> None:
    edges = [edge for edge in graph.edges if edge.source == component.name and edge.kind is EdgeKind.CACHE]
    for edge in edges[1:]:
        report.error(
            "D221",
            f"`{component.name}` is connected to `{edges[0].target}` and to `{edge.target}`",
            (edge.at, f"`{edge.target}`"),
            (edges[0].at, f"`{edges[0].target}`"),
            notes=["a worker has one order of tiers: write them in one cache"],
            remedies=without_edge(graph, edge),
        )


def _check_engine(graph: Graph, component: Component, options: WorkerOptions, report: Reporter) -> None:
    if options.cache is None:
        return
    engine, cache = dialect(options.engine), graph.cache_of(component.name)
    assert cache is not None
    known = engine.capabilities.tiers
    for tier in [tier for tier in sizes_of(options.cache) if tier not in known]:
        kept = f"it keeps {' and '.join(f'`{name}`' for name in known)}" if known else "it keeps no tier"
        report.error(
            "D530",
            f"engine `{options.engine}` of `{component.name}` does not keep the tier `{tier}`",
            ((*cache.at, "tiers", tier), kept),
            at_key=True,
            remedies=without_tier(graph, component, tier) if known else without_cache(graph, component),
        )
    reason = engine.refuses_cache(options, component.role)
    if reason is not None:
        report.error(
            "D530",
            f"`{component.name}` cannot keep the tiers of `{cache.name}`",
            (_edge_at(graph, component, cache), f"{component.role} of engine `{options.engine}`"),
            notes=[reason],
            remedies=without_cache(graph, component),
        )


def _edge_at(graph: Graph, component: Component, cache: Component) -> Path:
    return next(e.at for e in graph.edges if (e.source, e.target) == (component.name, cache.name))
