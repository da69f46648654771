"""Valid specs and the clusters they fit, for property tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from proving import cards

from dynamoc.compiler.artifacts import Artifacts
from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

GIB = 2**30
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
names = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@dataclass(frozen=True)
class Case:
    """A spec as plain data, and a cluster it fits."""

    spec: dict[str, Any]
    cluster: Cluster

    @property
    def text(self) -> str:
        return to_yaml(self.spec)


def compiled(text: str, cluster: Cluster) -> Artifacts:
    return compile_spec(read_source(text, "spec.yaml"), cluster, load_target("local"), cards())


def texts(artifacts: Artifacts) -> dict[str, str]:
    return {str(artifact.path): artifact.text for artifact in artifacts}


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Nodes that are alike: the GPUs of a node are a power of two, so that powers of two always fit."""
    gpus = draw(st.sampled_from((0, 0, 2, 4, 8)))
    cpus = draw(st.integers(1, 64))
    nodes = tuple(Node(f"node-{index}", cpus, 64 * GIB, gpus) for index in range(draw(st.integers(1, 4))))
    return Cluster("site", nodes, port_base=draw(st.sampled_from((10_000, 21_000, 64_000))))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    cluster = draw(clusters())
    frontend, router, *workers = draw(st.lists(names, min_size=5, max_size=5, unique=True))
    cuda = draw(st.booleans()) and sum(node.gpus for node in cluster.nodes) >= len(workers)
    engine = draw(st.sampled_from(("mocker", "echo") if cuda else ("native", "mocker", "echo")))
    context = draw(st.integers(64, 8192))
    spec: dict[str, Any] = {
        "dynamoc": 1,
        "name": draw(names),
        "model": {"ref": LLAMA if cuda else SMOLLM2},
        "defaults": draw(defaults(engine, "cuda" if cuda else "cpu", context)),
        "components": {
            frontend: {"role": "frontend", "port": draw(st.integers(1024, 9000)), "replicas": draw(st.integers(1, 3))},
            router: {"role": "router", "policy": draw(st.sampled_from(("kv", "round_robin", "least_loaded")))},
        },
    }
    roles = draw(
        st.sampled_from((["aggregated"], ["aggregated"] * 2, ["prefill", "decode"], ["prefill"] * 2 + ["decode"]))
    )
    placed = list(zip(workers, roles, strict=False))
    left = sum(node.gpus for node in cluster.nodes)
    for position, (name, role) in enumerate(placed):
        reserved = len(placed) - position - 1
        spec["components"][name] = worker = {"role": role} | draw(sizes(cluster, left - reserved, cuda))
        left -= worker.get("replicas", 1) * worker.get("parallel", {}).get("tp", 1)
    spec["edges"] = draw(edges(frontend, router, placed))
    if draw(st.booleans()):
        isl = draw(st.integers(1, context - 1))
        spec["load"] = {"isl": isl, "osl": draw(st.integers(1, context - isl))}
    if not cuda and draw(st.booleans()):
        spec["placement"] = {"same_node": [name for name, _ in placed]}
    return Case(spec, cluster)


@st.composite
def defaults(draw: st.DrawFn, engine: str, device: str, context: int) -> dict[str, Any]:
    block_size = draw(st.sampled_from((8, 16, 64)))
    options: dict[str, Any] = {"engine": engine, "device": device, "context_length": context, "block_size": block_size}
    if draw(st.booleans()):
        options["kv_blocks"] = -(-context // block_size) + draw(st.integers(0, 8))
    if draw(st.booleans()):
        options["env"] = {"NOTE": draw(st.sampled_from(("no", "1e3", "a b", "it's", "$HOME", "x: y", "#")))}
    return options


@st.composite
def sizes(draw: st.DrawFn, cluster: Cluster, gpus: int, cuda: bool) -> dict[str, Any]:
    """Replicas, and GPUs of each where there are any: at most `gpus` altogether."""
    if not cuda:
        return {"replicas": draw(st.integers(1, 4))}
    possible = [size for size in (1, 2, 4, 8) if size <= min(gpus, cluster.nodes[0].gpus)]
    tp = draw(st.sampled_from(possible))
    return {"replicas": draw(st.integers(1, gpus // tp)), "parallel": {"tp": tp}}


@st.composite
def edges(draw: st.DrawFn, frontend: str, router: str, workers: list[tuple[str, str]]) -> list[Any]:
    """Chains or mappings; with a transport, or without."""
    decodes = [name for name, role in workers if role == "decode"]
    firsts = [name for name, role in workers if role != "decode"]
    declared = draw(st.booleans())
    if decodes and declared:
        transport = draw(st.sampled_from(({}, {"transport": "tcp"})))
        pairs = [{"from": name, "to": decodes[0], **transport} for name in firsts]
        return [*(f"{frontend} -> {router} -> {name}" for name in firsts), *pairs]
    return [" -> ".join([frontend, router, name, *decodes]) for name in firsts]


def shuffled(value: Any) -> st.SearchStrategy[Any]:
    """The same data with the keys of every mapping in another order."""
    if not isinstance(value, dict):
        return st.just(value)
    fields = st.tuples(*(st.tuples(st.just(key), shuffled(item)) for key, item in value.items()))
    return fields.flatmap(st.permutations).map(dict)
