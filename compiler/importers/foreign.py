"""What is often found beside recipes and names no deployment itself: what it is, and what to import in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynamoc.compiler.importers.recipe import text_of

OBJECTS: Mapping[str, str] = {
    "DynamoGraphDeploymentRequest": "it asks for a deployment by its goals: import the graph that is made of it",
    "DynamoComponentDeployment": "it is one component, made of a graph: import the DynamoGraphDeployment",
    "EndpointPickerConfig": "it configures a router and names neither model nor GPUs",
    "Kustomization": "it builds objects of others: import what `kustomize build` prints",
    "LeaderWorkerSet": "it groups pods and is not a graph of components",
}
"""Kinds of Kubernetes objects, and why each is no recipe."""
ENGINE_OPTIONS = frozenset({"tensor_parallel_size", "kv_cache_config", "moe_config", "cuda_graph_config"})
REQUEST = frozenset({"searchStrategy", "sla", "hardware", "workload"})
SIMULATION = frozenset({"engine", "traffic"})


def what_it_is(documents: list[Any]) -> str | None:
    """A sentence about a file that is no recipe; None if it is nothing we know either."""
    if not documents:
        return "there is nothing in the file"
    kinds = [text_of(d["kind"]) for d in documents if isinstance(d, dict) and "apiVersion" in d and "kind" in d]
    if kinds:
        reason = next((OBJECTS[kind] for kind in kinds if kind in OBJECTS), "none is a DynamoGraphDeployment")
        return f"these are Kubernetes objects ({', '.join(sorted(set(kinds)))}): {reason}"
    first = documents[0]
    if not isinstance(first, dict):
        return None
    return next((text for recognises, text in FILES if recognises(first)), None)


def _experiments(data: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) and "serving_mode" in value for value in data.values())


def _request(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("model"), str) and bool(REQUEST & data.keys())


def _compose(data: Mapping[str, Any]) -> bool:
    services = data.get("services")
    return isinstance(services, dict) and any(isinstance(s, dict) and "image" in s for s in services.values())


_CHART = frozenset({"apiVersion", "name", "version"})

FILES: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (
        _experiments,
        (
            "these are aiconfigurator experiments: each is a search for a deployment; import the generator "
            "configuration or the graph that it writes"
        ),
    ),
    (_request, "this is a DynamoGraphDeploymentRequest without its envelope: import the deployment made of it"),
    (
        lambda data: "workflow" in data and "operators" in data,
        "this is an sflow workflow: its sizes are expressions; import the generator configuration beside it",
    ),
    (lambda data: "jobs" in data and ("on" in data or "name" in data), "this is a workflow of a build service"),
    (lambda data: data.keys() >= _CHART, "this is the head of a Helm chart: import what `helm template` prints"),
    (_compose, "this is a compose file: it starts containers on one host and names no GPUs of workers"),
    (
        lambda data: data.keys() >= SIMULATION,
        "this is a simulation: its times are invented and no process is described",
    ),
    (
        lambda data: "manifest_version" in data,
        "this is the record of a benchmark that was run: import the recipe that it names",
    ),
    (
        lambda data: bool(ENGINE_OPTIONS & data.keys()),
        "these are options of one engine: they name neither model nor workers; import what starts the engine with them",
    ),
)
"""Files of one mapping, the most particular first."""
