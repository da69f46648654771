"""Specs that are right, and each of them with one thing changed. What a change should lead to is said elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

Data = dict[str, Any]
WORKERS = ("prefill", "decode", "aggregated")


@dataclass(frozen=True)
class Site:
    """A cluster of nodes that are alike. Memory in GiB."""

    nodes: int
    gpus: int = 0
    kind: str = ""
    gpu_memory: int = 0
    cpus: int = 64
    memory: int = 1024
    disk: int = 0
    disk_path: str = ""
    shm: int = 0
    storage: int = 0
    """MB a second that a node reads of models."""

    def text(self) -> str:
        """As a cluster file."""
        gpus = f", gpus: {{count: {self.gpus}, kind: {self.kind}, memory: {self.gpu_memory} GiB}}" if self.gpus else ""
        where = f", path: {self.disk_path}" if self.disk_path else ""
        disk = f", disk: {{size: {self.disk} GiB{where}}}" if self.disk else ""
        shm = f", shm: {self.shm} GiB" if self.shm else ""
        node = f"{{name: n, count: {self.nodes}, cpus: {self.cpus}, memory: {self.memory} GiB{gpus}{disk}{shm}}}"
        storage = f"storage: {{bandwidth: {self.storage} MB}}\n" if self.storage else ""
        return f"name: site\nnodes: [{node}]\n{storage}"


@dataclass(frozen=True)
class Mutant:
    """One change: its class, what was changed to what, and the result."""

    kind: str
    name: str
    spec: Data
    site: Site


def pipeline(ref: str, defaults: Data, workers: dict[str, Data], **more: Any) -> Data:
    """A frontend, a router, and prefill and decode workers or aggregated ones."""
    components: dict[str, Data] = {"frontend": {"role": "frontend", "port": 8000}, "router": {"role": "router"}}
    components |= {
        name: {"role": name if name in WORKERS else "aggregated"} | fields for name, fields in workers.items()
    }
    edges = [" -> ".join(["frontend", "router", *workers])]
    data = {"dynamoc": 1, "name": "demo", "model": {"ref": ref}, "defaults": defaults, "components": components}
    return data | {"edges": edges} | more


SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
QWEN = "Qwen/Qwen3-235B-A22B"
LAPTOP = Site(1, cpus=8, memory=16)
H200 = Site(5, 8, "H200", 140)
GB200 = Site(8, 4, "GB200", 184)
H100 = Site(1, 8, "H100", 79)
LOAD = {"isl": 1024, "osl": 512}
NATIVE = {"engine": "native", "dtype": "bfloat16", "block_size": 16, "context_length": 2048, "kv_memory": "128 MiB"}

BASES: dict[str, tuple[Data, Site]] = {
    "native": (pipeline(SMALL, NATIVE, {"prefill": {"replicas": 2}, "decode": {"replicas": 2}}, load=LOAD), LAPTOP),
    "native-blocks": (
        pipeline(
            SMALL,
            {"engine": "native", "block_size": 32, "kv_blocks": 64, "context_length": 2048},
            {"aggregated": {"replicas": 3}},
            load=LOAD,
        ),
        LAPTOP,
    ),
    "mocker": (
        pipeline(
            SMALL,
            {"engine": "mocker", "block_size": 16, "kv_blocks": 4096, "context_length": 4096},
            {"prefill": {"replicas": 4}, "decode": {"replicas": 4}},
            load=LOAD,
        ),
        LAPTOP,
    ),
    "mocker-gpus": (
        pipeline(
            LLAMA,
            {"engine": "mocker", "device": "cuda", "block_size": 64, "context_length": 16384},
            {"prefill": {"replicas": 4, "parallel": {"tp": 2}}, "decode": {"replicas": 2, "parallel": {"tp": 8}}},
            load={"isl": 8192, "osl": 1024},
        ),
        H200,
    ),
    "native-gpus": (
        pipeline(
            LLAMA_8B,
            NATIVE | {"device": "cuda", "context_length": 8192, "kv_memory": "32 GiB"},
            {"aggregated": {"replicas": 3}},
            load=LOAD,
        ),
        H100,
    ),
    "vllm-pair": (
        pipeline(
            LLAMA,
            {"engine": "vllm", "context_length": 16384, "args": {"gpu-memory-utilization": 0.9}},
            {
                "prefill": {"replicas": 2, "parallel": {"tp": 4}, "gpus": 4},
                "decode": {"replicas": 1, "parallel": {"tp": 8}, "gpus": 8},
            },
            load={"isl": 8192, "osl": 1024},
        ),
        H200,
    ),
    "vllm-stages": (
        pipeline(
            LLAMA,
            {"engine": "vllm", "context_length": 8192},
            {"aggregated": {"replicas": 2, "parallel": {"tp": 2, "pp": 2, "dp": 2}}},
            load=LOAD,
        ),
        replace(H200, nodes=2),
    ),
    "vllm-experts": (
        pipeline(
            QWEN,
            {"engine": "vllm", "context_length": 8192},
            {"aggregated": {"args": {"tp": 8, "enable-expert-parallel": True}, "gpus": 8}},
            load=LOAD,
        ),
        replace(H200, nodes=1),
    ),
    "sglang-pair": (
        pipeline(
            LLAMA,
            {"engine": "sglang", "context_length": 16384, "args": {"mem-fraction-static": 0.85}},
            {
                "prefill": {"replicas": 2, "parallel": {"tp": 4}, "nodes": 2},
                "decode": {"replicas": 1, "parallel": {"tp": 8}, "gpus": 8, "nodes": 2},
            },
            load={"isl": 8192, "osl": 1024},
        ),
        GB200,
    ),
    "sglang-attention": (
        pipeline(
            QWEN,
            {"engine": "sglang", "context_length": 8192},
            {"aggregated": {"args": {"tp-size": 8, "dp-size": 8, "enable-dp-attention": True}, "gpus": 8}},
            load=LOAD,
        ),
        GB200,
    ),
    "trtllm": (
        pipeline(
            LLAMA,
            {"engine": "trtllm", "context_length": 16384},
            {
                "prefill": {"replicas": 3, "parallel": {"tp": 2}, "gpus": 2},
                "decode": {"replicas": 2, "parallel": {"tp": 4}, "gpus": 4},
            },
            load={"isl": 8192, "osl": 1024},
        ),
        GB200,
    ),
    "trtllm-one": (
        pipeline(
            LLAMA,
            {"engine": "trtllm", "context_length": 8192},
            {"aggregated": {"args": {"tensor_parallel_size": 4}, "replicas": 2}},
            load=LOAD,
        ),
        H100,
    ),
}

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 64, 128)
COUNTS = (0, 1, 2, 3, 5, 8, 9, 17, 100)
TOKENS = (1, 512, 1024, 1025, 2047, 2048, 4096, 8192, 16384, 32768, 131072, 131073)
FRACTIONS = (0.01, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
FRACTION_FLAG = {"vllm": "gpu-memory-utilization", "sglang": "mem-fraction-static", "trtllm": "kv_cache_config"}


def mutants() -> Iterator[Mutant]:
    """All of them, in the same order every time."""
    for name, (spec, site) in BASES.items():
        for make in MAKES:
            for kind, what, changed, where in make(spec, site):
                yield Mutant(kind, f"{name}: {kind} {what}", changed, where)


Change = tuple[str, str, Data, Site]


def put(spec: Data, path: tuple[Any, ...], value: Any) -> Data:
    """A copy with one value changed; None takes it away."""
    changed = copy.deepcopy(spec)
    at = changed
    for key in path[:-1]:
        at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
    if value is None:
        at.pop(path[-1], None)
    else:
        at[path[-1]] = value
    return changed


def workers_of(spec: Data) -> list[str]:
    return [name for name, component in spec["components"].items() if component["role"] in WORKERS]


def _nodes(spec: Data, site: Site) -> Iterator[Change]:
    for nodes in (1, 2, 3, 4, 6, 16):
        yield "nodes", f"of the cluster {nodes}", spec, replace(site, nodes=nodes)
    for gpus in (1, 2, 4, 8, 16) if site.gpus else ():
        yield "nodes", f"with {gpus} GPUs", spec, replace(site, gpus=gpus)
    for memory in (16, 40, 80, 280) if site.gpus else ():
        yield "gpu memory", f"{memory} GiB", spec, replace(site, gpu_memory=memory)
    for memory in (1, 2, 4, 64):
        yield "host memory", f"{memory} GiB", spec, replace(site, memory=memory)


def _load(spec: Data, site: Site) -> Iterator[Change]:
    for field in ("isl", "osl"):
        for tokens in (0, *TOKENS):
            yield field, str(tokens), put(spec, ("load", field), tokens), site
    for tokens in TOKENS:
        yield "context", f"of all {tokens}", put(spec, ("defaults", "context_length"), tokens), site


def _spread(spec: Data, site: Site) -> Iterator[Change]:
    for field in ("isl", "osl"):
        for stddev in (-1, 0, 1, 64, *TOKENS):
            yield f"{field} spread", str(stddev), put(spec, ("load", f"{field}_stddev"), stddev), site


def _port(spec: Data, site: Site) -> Iterator[Change]:
    for port in (0, 1, 80, 1023, 1024, 8001, 65534, 65535, 65536, 100_000):
        yield "port", str(port), put(spec, ("components", "frontend", "port"), port), site
        two = put(spec, ("components", "frontend"), {"role": "frontend", "port": port, "replicas": 3})
        yield "port", f"{port} of three", two, site
    for port in (8000, 8001):
        two = put(spec, ("components", "second"), {"role": "frontend", "port": port})
        yield "port", f"8000 and {port}", two | {"edges": [*spec["edges"], "second -> router"]}, site


def _time(spec: Data, site: Site) -> Iterator[Change]:
    for limit in ("4:00:00", "90 min", "2 d", "0:00:00", "0 s", "soon", "-1 h", 4, "1:2:3:4"):
        yield "time limit", repr(limit), put(spec, ("time_limit",), limit), site


def _sizes(spec: Data, site: Site) -> Iterator[Change]:
    for name in workers_of(spec):
        told = spec["components"][name].get("args", {})
        flag = next((key for key in told if key in ("tp", "tp-size", "tensor_parallel_size")), None)
        at: tuple[str, ...] = ("args", flag) if flag else ("parallel", "tp")
        for size in SIZES:
            yield "tp", f"of {name} {size}", put(spec, ("components", name, *at), size), site
        for dimension, sizes in (("pp", (2, 3, 4, 8, 81, 95)), ("dp", (2, 3, 4, 8))):
            if dimension == "pp" or "dp-size" not in told:
                for size in sizes:
                    yield (
                        dimension,
                        f"of {name} {size}",
                        put(spec, ("components", name, "parallel", dimension), size),
                        site,
                    )


def _counts(spec: Data, site: Site) -> Iterator[Change]:
    for name in workers_of(spec):
        for count in COUNTS:
            yield "replicas", f"of {name} {count}", put(spec, ("components", name, "replicas"), count), site
        for count in (1, 2, 3, 4, 8, 16) if site.gpus else ():
            yield "gpus", f"of {name} {count}", put(spec, ("components", name, "gpus"), count), site
        for count in (1, 2, 3, 4, 9) if site.gpus else ():
            yield "own nodes", f"of {name} {count}", put(spec, ("components", name, "nodes"), count), site
        for count in (1, 2, 4, 8, 9, 10**9) if spec["defaults"]["engine"] in FRACTION_FLAG else ():
            yield (
                "nodes of a worker",
                f"of {name} {count}",
                put(spec, ("components", name, "nodes_per_worker"), count),
                site,
            )


def _blocks(spec: Data, site: Site) -> Iterator[Change]:
    engine = spec["defaults"]["engine"]
    for size in (1, 8, 12, 16, 20, 32, 100, 128, 256, 512):
        if engine in ("native", "mocker"):
            yield "block size", f"of all {size}", put(spec, ("defaults", "block_size"), size), site
            yield from (
                ("block size", f"of {name} {size}", put(spec, ("components", name, "block_size"), size), site)
                for name in workers_of(spec)
            )
    for blocks in (1, 16, 32, 33, 48, 64, 128, 4096) if "kv_blocks" in spec["defaults"] else ():
        yield "kv blocks", str(blocks), put(spec, ("defaults", "kv_blocks"), blocks), site
    sizes = ("1 MiB", "10 MiB", "32 MiB", "40 MiB", "1 GiB", "16 GiB", "62 GiB", "64 GiB", "300 GiB")
    for size in sizes if "kv_memory" in spec["defaults"] else ():
        yield "kv memory", size, put(spec, ("defaults", "kv_memory"), size), site


def _types(spec: Data, site: Site) -> Iterator[Change]:
    for dtype in ("bfloat16", "float16", "float32", "fp8", "int3", "no"):
        yield "kv dtype", f"of all {dtype}", put(spec, ("defaults", "kv_dtype"), dtype), site
        if spec["defaults"]["engine"] in ("native", "mocker"):
            name = workers_of(spec)[-1]
            yield "kv dtype", f"of {name} {dtype}", put(spec, ("components", name, "kv_dtype"), dtype), site


def _transports(spec: Data, site: Site) -> Iterator[Change]:
    if "prefill" in spec["components"]:
        for transport in ("shm", "tcp", "nvlink", "nixl", "mooncake", "ucx", "mpi", "lmcache", "rdma"):
            pair = {"from": "prefill", "to": "decode", "transport": transport}
            yield "transport", transport, spec | {"edges": ["frontend -> router -> prefill", pair]}, site


def _flags(spec: Data, site: Site) -> Iterator[Change]:
    engine = spec["defaults"]["engine"]
    for name in workers_of(spec):
        at = ("components", name, "args", "no-flag-of-any-engine")
        yield "unknown flag", f"of {name}", put(spec, at, 1), site
        tp = spec["components"][name].get("parallel", {}).get("tp")
        flag = {"vllm": "tensor_parallel_size", "sglang": "tensor-parallel-size", "trtllm": "tensor_parallel_size"}
        if engine in flag and tp is not None:
            for size in (tp, 2 * tp):
                told = put(spec, ("components", name, "args", flag[engine]), size)
                yield "flag beside field", f"of {name} {size} and {tp}", told, site
    if engine in FRACTION_FLAG:
        for fraction in FRACTIONS:
            value = {"free_gpu_memory_fraction": fraction} if engine == "trtllm" else fraction
            yield "fraction", str(fraction), put(spec, ("defaults", "args", FRACTION_FLAG[engine]), value), site


TIER_SIZES = ("1 KiB", "512 MiB", "2 GiB", "6 GiB", "100 GiB", "1000 GiB", "3000 GiB")


def _caches(spec: Data, site: Site) -> Iterator[Change]:
    """A cache for the first workers, or all: every engine, every tier, sizes around what nodes have."""
    names = workers_of(spec)
    for users in (names[:1], names):
        edges = [*spec["edges"], *(f"{name} -> cache" for name in users)]
        of = f"of {' and '.join(users)}"
        for size in TIER_SIZES:
            for tiers in ({"host": size}, {"disk": {"path": "/scratch/kv", "size": size}}):
                cached = put(spec, ("components", "cache"), {"role": "cache", "tiers": tiers}) | {"edges": edges}
                kind = next(iter(tiers))
                for changed in (site, replace(site, disk=1500, disk_path="/scratch"), replace(site, disk=1500)):
                    yield f"{kind} tier", f"{of} {size} on {changed.disk} GiB at {changed.disk_path}", cached, changed
        for url in ("s3://kv-blocks/demo", "s3:/kv", "https://kv", "file:///shared/kv", "s3://UPPER/x", ""):
            objects = {"role": "cache", "tiers": {"object": {"url": url, "size": "4000 GiB"}}}
            yield "object tier", f"{of} {url!r}", put(spec, ("components", "cache"), objects) | {"edges": edges}, site
    idle = put(spec, ("components", "cache"), {"role": "cache", "tiers": {"host": "1000 GiB"}})
    yield "cache", "of nobody", idle, site
    yield "cache", "above its worker", idle | {"edges": [*spec["edges"], f"cache -> {names[0]}"]}, site


def _start(spec: Data, site: Site) -> Iterator[Change]:
    for speed in (1, 20, 200, 5000):
        slow = replace(site, storage=speed)
        folder = put(spec, ("model", "path"), "/models/x")
        for limit in ("30 s", "5 min", "40 min", "9 h"):
            yield "reading", f"at {speed} MB/s within {limit}", put(folder, ("time_limit",), limit), slow
            told = put(folder, ("defaults", "ready_timeout"), limit)
            yield "deadline", f"at {speed} MB/s of {limit}", told, slow


Make = Callable[[Data, Site], Iterator[Change]]
MAKES: tuple[Make, ...] = (
    _nodes,
    _load,
    _spread,
    _port,
    _time,
    _sizes,
    _counts,
    _blocks,
    _types,
    _transports,
    _flags,
    _caches,
    _start,
)
