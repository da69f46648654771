"""Tiers of caches: who takes how much of which node, what engines are told, and how long a start may take."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from proving import ROOT, cards

from dynamoc.compiler.cluster import Cluster, Node, Storage
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.drawing import to_dot, to_mermaid
from dynamoc.compiler.lower import lower
from dynamoc.compiler.models import read_geometry
from dynamoc.compiler.pipeline import Proof, build_plan, prove
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.resolved import resolved_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.summary import summarize
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier

MIB, GIB = 2**20, 2**30
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
FOLDER = ROOT / "tests/golden/compile/tiers"
H100 = Node("gpu", 112, 2048 * GIB, 8, "H100", 80 * GIB)


def proof(spec: dict[str, Any], cluster: Cluster) -> Proof:
    return prove(read_source(to_yaml(spec), "spec.yaml"), cluster, cards())


def planned(spec: dict[str, Any], cluster: Cluster) -> Plan:
    found = proof(spec, cluster)
    assert found.plan is not None, found.diagnostics
    return found.plan


def golden_plan() -> Plan:
    cluster = read_cluster(read_source((FOLDER / "cluster.yaml").read_text(), "cluster.yaml"))
    return build_plan(read_source((FOLDER / "spec.yaml").read_text(), "spec.yaml"), cluster, cards())[0]


def served(engine: str, worker: dict[str, Any], host: str | None = None) -> dict[str, Any]:
    """One pool of aggregated workers, with a host tier or without."""
    components: dict[str, Any] = {"frontend": {"role": "frontend"}, "router": {"role": "router"}}
    components["worker"] = {"role": "aggregated", **worker}
    edges = ["frontend -> router -> worker"]
    if host is not None:
        components["cache"] = {"role": "cache", "tiers": {"host": host}}
        edges.append("worker -> cache")
    defaults = {"engine": engine, "context_length": 8192}
    head = {"dynamoc": 1, "name": "demo", "model": {"ref": LLAMA}, "defaults": defaults}
    return {**head, "components": components, "edges": edges}


@st.composite
def pools(draw: st.DrawFn) -> tuple[dict[str, Any], Cluster]:
    """Pools of CPU workers with caches of their own, shared ones or none, on nodes that may be too small."""
    names = [f"w{number}" for number in range(draw(st.integers(1, 4)))]
    caches = [f"c{number}" for number in range(draw(st.integers(0, 2)))]
    components: dict[str, Any] = {"frontend": {"role": "frontend"}, "router": {"role": "router"}}
    edges = []
    for name in names:
        components[name] = {"role": "aggregated", "replicas": draw(st.integers(1, 3))}
        cache = draw(st.sampled_from([None, *caches]))
        edges.append(" -> ".join(["frontend", "router", name, *([cache] if cache else [])]))
    for name in {edge.split(" -> ")[3] for edge in edges if edge.count("->") == 3}:
        tiers: dict[str, Any] = {"host": f"{draw(st.integers(128, 4096))} MiB"}
        if draw(st.booleans()):
            tiers["disk"] = {"path": "/scratch/kv", "size": f"{draw(st.integers(4096, 9000))} MiB"}
        components[name] = {"role": "cache", "tiers": tiers}
    allow = [{"code": code, "reason": "to see the plan"} for code in ("D305", "D340", "D342")]
    defaults = {"engine": "native", "context_length": 512, "kv_memory": "64 MiB", "cpus": 1}
    spec = {"dynamoc": 1, "name": "demo", "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"}}
    spec |= {"defaults": defaults, "components": components, "edges": edges, "allow": allow}
    node = Node(
        "n", 16, draw(st.integers(1, 16)) * GIB, disk_bytes=draw(st.integers(4, 40)) * GIB, disk_path="/scratch"
    )
    return spec, Cluster("site", tuple(replace(node, name=f"n{i}") for i in range(draw(st.integers(1, 3)))))


@settings(max_examples=60, deadline=None)
@given(pools())
def test_sums_per_node_are_those_of_a_count_by_hand(case: tuple[dict[str, Any], Cluster]) -> None:
    """From the spec and the manifest alone: who is where, and what the spec gives each of them."""
    spec, cluster = case
    found = proof(spec, cluster)
    assert found.plan is not None
    leads = {edge.split(" -> ")[2]: edge.split(" -> ")[3] for edge in spec["edges"] if edge.count("->") == 3}
    host: Counter[int] = Counter()
    disk: Counter[int] = Counter()
    beside: Counter[int] = Counter()
    for process in lower(found.plan).processes:
        if process.worker is not None:
            tiers = spec["components"].get(leads.get(process.component), {}).get("tiers", {})
            host[process.node] += mib(tiers.get("host", "0 MiB"))
            disk[process.node] += mib(tiers.get("disk", {}).get("size", "0 MiB"))
            beside[process.node] += process.worker.kv.blocks * 16 * 23040 + 2 * 134_515_008
    summary = summarize(found.plan)
    for index, node in enumerate(summary.nodes):
        assert node.disk_tier_bytes == disk[index]
        assert node.host_bytes == beside[index] + host[index]
    met = {d.code for d in found.diagnostics}
    full = [n for n in beside if beside[n] > cluster.nodes[0].memory_bytes]
    tight = [n for n in host if beside[n] <= cluster.nodes[0].memory_bytes < beside[n] + host[n]]
    assert ("D305" in met, "D340" in met) == (bool(full), bool(tight))
    assert ("D342" in met) == any(size > cluster.nodes[0].disk_bytes for size in disk.values())


def mib(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * MIB


@given(st.integers(64, 1500), st.sampled_from([{"tp": 4}, {"tp": 8}, {"tp": 2, "dp": 2}, {"tp": 2, "pp": 2}]))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_what_an_engine_is_told_is_what_the_cache_says(engine: str, gibibytes: int, sizes: dict[str, int]) -> None:
    """Its own flags, read back, give the same bytes of a worker, up to the unit that the engine counts in."""
    parallel = {"tp": sizes["tp"], "pp": sizes.get("pp", 1)} if engine == "trtllm" else sizes
    plan = planned(served(engine, {"parallel": parallel}, f"{gibibytes} GiB"), Cluster("site", (H100,)))
    options = plan.graph.component("worker").worker
    assert options is not None
    own = dialect(engine)
    told = own.told(options)
    flags = {own.table.spelling(fact): told[fact] for fact in ("host_cache", "hierarchical_cache") if fact in told}  # type: ignore[attr-defined]
    args = flags if engine != "trtllm" else {"kv_cache_config": {"host_cache_size": told["host_cache"]}}
    again = planned(served(engine, {"parallel": parallel, "args": args}), Cluster("site", (H100,)))
    read = again.graph.component("worker").worker
    assert read is not None
    unit = {"vllm": 2, "sglang": 10**9, "trtllm": 1}[engine] * read.parallel.gpus

    assert 0 <= own.host_cache_bytes(options) - own.host_cache_bytes(read) <= unit
    assert own.host_cache_bytes(options) == gibibytes * GIB


def test_the_words_of_a_command_hold_the_tier() -> None:
    def words(engine: str) -> str:
        launch = (
            planned(served(engine, {"parallel": {"tp": 4}}, "256 GiB"), Cluster("site", (H100,))).processes[-1].launch
        )
        assert launch is not None
        return " ".join([*map(str, launch.words), *launch.files.values()])

    assert "--kv-offloading-size 256" in words("vllm")
    assert "--enable-hierarchical-cache --hicache-size 68" in words("sglang")
    assert f"host_cache_size: {64 * GIB}" in words("trtllm")


def test_the_manifest_tells_workers_what_to_keep_and_no_process_is_a_cache() -> None:
    manifest = lower(golden_plan())
    near = CacheSettings(host_bytes=GIB, disk=DiskTier(path="/scratch/kv", bytes=20 * GIB))
    far = CacheSettings(
        host_bytes=GIB // 2, object=ObjectTier(url="s3://kv-blocks/demo", bytes=1024 * GIB), admission="all"
    )
    told = {p.component: p.worker.cache for p in manifest.processes if p.worker is not None}

    assert told == {"prefill": near, "decode": far}
    assert {p.component for p in manifest.processes} == {"frontend", "router", "prefill", "decode"}
    assert all(edge.kind != "cache" for edge in manifest.edges)


def test_engines_of_their_own_are_told_by_flags_alone() -> None:
    manifest = lower(planned(served("trtllm", {"parallel": {"tp": 4}}, "256 GiB"), Cluster("site", (H100,))))

    assert [p.worker.cache for p in manifest.processes if p.worker is not None] == [None]


def test_the_resolved_spec_gives_the_same_plan() -> None:
    plan = golden_plan()
    again = planned(resolved_spec(plan), plan.cluster)

    assert lower(again) == lower(plan)
    assert resolved_spec(again) == resolved_spec(plan)


def test_pictures_and_figures_hold_the_caches() -> None:
    plan = golden_plan()
    caches = {cache.name: cache for cache in summarize(plan).caches}

    assert "host 1 GiB\\ndisk 20 GiB" in to_dot(plan)
    assert '"prefill" -> "near" [style=dotted' in to_dot(plan)
    assert "c_decode <-.-> c_far" in to_mermaid(plan)
    assert (caches["near"].workers, caches["near"].components, caches["near"].disk_bytes) == (3, ("prefill",), 20 * GIB)
    assert caches["far"].object_url == "s3://kv-blocks/demo"


def deadline(engine: str, cluster: Cluster, path: str | None = "/models/llama", **worker: Any) -> float:
    spec = served(engine, {"parallel": {"tp": 4}, **worker})
    spec["model"] |= {} if path is None else {"path": path}
    return planned(spec, cluster).processes[-1].ready_timeout_s


def test_a_deadline_is_an_allowance_and_twice_the_reading() -> None:
    size = read_geometry((ROOT / "specs/models/meta-llama--Llama-3.3-70B-Instruct.yaml").read_text()).bytes_on_disk
    fast = Cluster("site", (H100,), storage=Storage("/models", 4 * 10**9))
    shared = replace(fast, storage=Storage(None, 4 * 10**9, 2 * 10**9))
    disk = Cluster("site", (replace(H100, disk_path="/models", disk_bytes_per_s=8 * 10**9),), storage=fast.storage)

    assert deadline("vllm", Cluster("site", (H100,))) == round(900 + 2 * size / 250e6)
    assert deadline("vllm", fast) == round(900 + 2 * size / 4e9)
    assert deadline("vllm", fast, "/elsewhere/llama") == round(900 + 2 * size / 250e6)
    assert deadline("vllm", shared, "/elsewhere/llama") == round(900 + 2 * size / 2e9)
    assert deadline("vllm", disk) == round(900 + 2 * size / 8e9)
    assert deadline("trtllm", fast) == round(1800 + 2 * size / 4e9)
    assert deadline("vllm", fast, args={"load-format": "dummy"}) == 900
    assert deadline("vllm", fast, ready_timeout="7 min") == 420


@pytest.mark.parametrize("args", [{"load-format": "dummy"}, {"load_format": "runai_streamer"}])
def test_weights_from_elsewhere_are_not_held_against_the_storage(args: dict[str, str]) -> None:
    spec = served("vllm", {"parallel": {"tp": 4}, "ready_timeout": "30 s"}) | {"time_limit": "1 min"}
    spec["model"] |= {"path": "/models/llama"}
    slow = Cluster("site", (H100,), storage=Storage("/models", 10**9))
    loaded = served("vllm", {"parallel": {"tp": 4}, "ready_timeout": "30 s", "args": args}) | {"time_limit": "1 min"}
    loaded["model"] |= {"path": "/models/llama"}

    assert {d.code for d in proof(spec, slow).diagnostics} == {"D348", "D349"}
    assert proof(loaded, slow).diagnostics == ()
