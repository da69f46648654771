"""Where a site keeps models: recipes name them, the cluster file has their folders."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.graph import Graph


def folder_of(folders: Mapping[str, str], path: str | None, ref: str | None) -> str | None:
    """The folder of the model that a recipe knows by its `path` or its `ref`; the path itself where there is none."""
    return next((folders[name] for name in (path, ref) if name is not None and name in folders), path)


def with_folders(graph: Graph, cluster: Cluster) -> Graph:
    """The graph with its model where this site has it."""
    model = graph.model
    folder = folder_of(cluster.site.get("models", {}), model.path, model.ref)
    return graph if folder == model.path else replace(graph, model=replace(model, path=folder))
