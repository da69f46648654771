"""What should become of a spec of the kind that mutants are: plain arithmetic, which shares nothing with the rules.

`must` are the codes it has to be refused with, any of them; `may` are codes that are right too, because the rules know
more than is counted here: what an engine rounds, keeps beside its weights, or checks first. Empty `must` and empty
`may` is a spec that has to be accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mutants import LLAMA, LLAMA_8B, QWEN, SMALL, WORKERS, Data, Site

OWN = ("native", "mocker")
GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class Facts:
    """Published figures of a model."""

    parameters: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    experts: bool = False

    def kv_bytes(self, item: int) -> int:
        """Of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * item


MODELS = {
    SMALL: Facts(134.5e6, 30, 9, 3, 64, 8192),
    LLAMA: Facts(70.55e9, 80, 64, 8, 128, 131072),
    LLAMA_8B: Facts(8.03e9, 32, 32, 8, 128, 131072),
    QWEN: Facts(235.1e9, 94, 64, 4, 128, 40960, experts=True),
}
TRANSPORTS = {
    "native": ("shm", "tcp", "nixl"),
    "mocker": ("shm", "tcp"),
    "vllm": ("nixl", "mooncake", "lmcache"),
    "sglang": ("mooncake", "nixl"),
    "trtllm": ("ucx", "nixl", "mooncake", "mpi"),
}
PLAIN = ("bfloat16", "float16", "float32")
DTYPES = (*PLAIN, "fp8", "float8_e4m3fn", "float8_e5m2")


@dataclass
class Opinion:
    """Codes that must be there, any of them, and codes that may."""

    must: set[str]
    may: set[str]


@dataclass(frozen=True)
class Worker:
    """A pool of workers, `defaults` included."""

    name: str
    fields: Data
    engine: str
    tp: int
    pp: int
    dp: int
    inside: bool

    @property
    def world(self) -> int:
        return self.tp * self.pp if self.inside or self.engine == "trtllm" else self.tp * self.pp * self.dp

    @property
    def gpus(self) -> int:
        on_gpus = self.engine not in OWN or self.fields.get("device") == "cuda"
        return int(self.fields.get("gpus", self.world)) if on_gpus else 0

    @property
    def replicas(self) -> int:
        return int(self.fields.get("replicas", 1))


def workers(spec: Data) -> list[Worker]:
    found = []
    for name, component in spec["components"].items():
        if component["role"] in WORKERS:
            args = spec["defaults"].get("args", {}) | component.get("args", {})
            fields = spec["defaults"] | component | {"args": args}
            sizes = fields.get("parallel", {})
            told = {key.replace("-", "_"): value for key, value in args.items()}
            tp = next((told[key] for key in ("tp", "tp_size", "tensor_parallel_size") if key in told), 1)
            dp = sizes.get("dp", told.get("dp_size", 1))
            inside = bool(told.get("enable_dp_attention"))
            found.append(Worker(name, fields, fields["engine"], sizes.get("tp", tp), sizes.get("pp", 1), dp, inside))
    return found


def opinion(spec: Data, site: Site) -> Opinion:
    """On a whole spec. What is not even of the right shape is met by nothing else."""
    found = Opinion(set(), set())
    _shape(spec, found)
    if not found.must:
        facts, pools = MODELS[spec["model"]["ref"]], workers(spec)
        for worker in pools:
            _engine(worker, facts, found)
            _context(worker, facts, spec["load"], found)
            _memory(worker, facts, site, spec["load"], found)
        _pair(spec, pools, found)
        _ports(spec, found)
        _ledger(pools, site, found)
        _hosts(pools, facts, site, found)
        _caches(spec, pools, facts, site, found)
        _start(spec, pools, facts, site, found)
    return found


def _shape(spec: Data, found: Opinion) -> None:
    """Values that are not allowed whatever else stands there."""
    port = spec["components"]["frontend"]["port"]
    load = spec["load"]
    numbers = [load["isl"], load["osl"], *(c.get("replicas", 1) for c in spec["components"].values())]
    if not 1 <= port <= 65535 or min(numbers) < 1 or min(load.get(f"{name}_stddev", 0) for name in ("isl", "osl")) < 0:
        found.must.add("D113")
    parts = [spec["defaults"], *spec["components"].values()]
    if any(part["kv_dtype"] not in DTYPES for part in parts if "kv_dtype" in part):
        found.must.add("D113")
    limit = spec.get("time_limit", "1 h")
    if not isinstance(limit, str) or not re.fullmatch(r"\d+:\d\d:\d\d|[1-9]\d* (ms|s|min|h)", limit):
        found.must |= {"D112", "D114"}
    elif limit == "0:00:00":
        found.must |= {"D113", "D114"}
    if any(edge.get("transport") == "rdma" for edge in spec["edges"] if isinstance(edge, dict)):
        found.must.add("D113")


def _engine(worker: Worker, facts: Facts, found: Opinion) -> None:
    """What the engine can do, and what the model divides into."""
    if worker.engine == "native" and max(worker.tp, worker.pp, worker.dp) > 1:
        found.must.add("D502")
    if worker.engine == "native" and worker.fields["block_size"] not in (8, 16, 32, 64, 128, 256):
        found.must.add("D506")
    dtype = worker.fields.get("dtype", "bfloat16")
    if worker.engine == "native" and worker.fields.get("kv_dtype", dtype) != dtype:
        found.must.add("D508")
    if worker.engine in OWN and worker.fields["args"]:
        found.must.add("D511")
    if facts.heads % _attention(worker) or (worker.inside and worker.tp % worker.dp):
        found.must |= {"D503", "D512", "D516"} if worker.inside else {"D503"}
    if _attention(worker) % facts.kv_heads and facts.kv_heads % _attention(worker):
        found.must.add("D504")
    if worker.pp > facts.layers:
        found.must.add("D505")
    if facts.experts and worker.tp & (worker.tp - 1):
        found.may.add("D512")
    _flags(worker, found)


def _attention(worker: Worker) -> int:
    """Ranks over which heads are cut."""
    return max(1, worker.tp // worker.dp) if worker.inside else worker.tp


def _flags(worker: Worker, found: Opinion) -> None:
    told = {key.replace("-", "_"): value for key, value in worker.fields["args"].items()}
    size = told.get("tensor_parallel_size", told.get("tp_size"))
    if size is not None and worker.fields.get("parallel", {}).get("tp", size) != size:
        found.must.add("D522")
    if worker.engine == "trtllm" and worker.dp not in (1, worker.tp):
        found.must.add("D527")
        found.may |= {"D301", "D302", "D308", "D313"}  # where dp is counted depends on what it means
    elif worker.engine == "trtllm" and worker.dp > 1:
        found.may |= {"D503", "D504"}


def _context(worker: Worker, facts: Facts, load: Data, found: Opinion) -> None:
    """A request fits the context and the pool; the context fits the model."""
    tokens = _longest(load, "isl") + (0 if worker.fields["role"] == "prefill" else _longest(load, "osl"))
    context = worker.fields["context_length"]
    if context > facts.positions and worker.engine != "trtllm":  # which goes on
        found.must.add("D509")
    if tokens > context:
        found.must.add("D320")
    if worker.engine in OWN and "block_size" in worker.fields:
        size, dtype = worker.fields["block_size"], worker.fields.get("kv_dtype", worker.fields.get("dtype", ""))
        blocks = worker.fields.get("kv_blocks")
        if "kv_memory" in worker.fields:
            blocks = _bytes(worker.fields["kv_memory"]) // (size * facts.kv_bytes(4 if dtype == "float32" else 2))
        if blocks is not None and tokens > blocks * size:
            found.must.add("D321")
        elif blocks is None and tokens > context:
            found.may.add("D321")  # its pool is a few contexts


def _bytes(text: str) -> int:
    number, unit = text.split()
    return int(number) * {"KiB": 1024, "MiB": MIB, "GiB": GIB}[unit]


def _longest(load: Data, name: str) -> int:
    """Lengths vary by two deviations at most."""
    return int(load[name] + 2 * load.get(f"{name}_stddev", 0))


def _memory(worker: Worker, facts: Facts, site: Site, load: Data, found: Opinion) -> None:
    """Impossible if the weights, cut over every rank, exceed a GPU; sure to fit with 16 GiB to spare."""
    if worker.engine in OWN:
        if worker.engine == "native" and worker.gpus:
            _told_pool(worker, facts, site, found)
        return
    gpu, weights = site.gpu_memory * GIB, 2 * facts.parameters
    told = {key.replace("-", "_"): value for key, value in worker.fields["args"].items()}
    fraction = told.get("gpu_memory_utilization", told.get("mem_fraction_static", 1.0))
    if "kv_cache_config" in told:
        fraction = 1.0  # of what the weights leave
        rest = told["kv_cache_config"]["free_gpu_memory_fraction"]
    else:
        rest = 1.0
    least = weights / (worker.world if facts.experts else worker.tp * worker.pp)
    most = (
        weights / min(_attention(worker) * worker.pp, worker.tp * worker.pp)
        if not facts.experts
        else weights / worker.tp
    )
    tokens = max(worker.fields["context_length"], _longest(load, "isl") + _longest(load, "osl"))
    cache = tokens * facts.kv_bytes(4 if worker.fields.get("kv_dtype") == "float32" else 2)
    if least + GIB > gpu:
        found.must |= {"D330", "D331"}
    elif least > fraction * gpu:
        found.must.add("D331")
    elif (fraction * gpu - 1.25 * most - 16 * GIB) * rest * 0.8 < cache:
        found.may |= {"D330", "D331"}


def _told_pool(worker: Worker, facts: Facts, site: Site, found: Opinion) -> None:
    """Weights, a pool of the size that is told, and a GiB on one GPU; published counts are right by a hundredth."""
    item, kv_item = (
        4 if worker.fields.get(field, worker.fields["dtype"]) == "float32" else 2 for field in ("dtype", "kv_dtype")
    )
    token = facts.kv_bytes(kv_item)
    blocks = worker.fields.get("kv_blocks", 0) * worker.fields["block_size"] * token
    pool = _bytes(worker.fields["kv_memory"]) if "kv_memory" in worker.fields else blocks
    gpu, weights = site.gpu_memory * GIB, item * facts.parameters
    if 0.99 * weights + GIB > gpu:
        found.must.add("D330")
    elif 0.99 * weights + pool + GIB > gpu:
        found.must |= {"D332"} if 1.01 * weights + GIB <= gpu else {"D330", "D332"}
    elif 1.01 * weights + pool + GIB > gpu:
        found.may |= {"D330", "D332"}


def _pair(spec: Data, pools: list[Worker], found: Opinion) -> None:
    """Both sides of a KV edge, and how it moves."""
    if len(pools) < 2:
        return
    ours, theirs = pools[0], pools[1]
    said = {name: [_said(worker, name) for worker in (ours, theirs)] for name in ("block_size", "kv_dtype")}
    if ours.engine in OWN and any(left != right for left, right in said.values()):
        found.must.add("D520")
    if ours.engine == "native" and ours.tp != theirs.tp:
        found.may.add("D520")
    for edge in spec["edges"]:
        transport = edge.get("transport") if isinstance(edge, dict) else None
        if transport is not None and transport not in TRANSPORTS[ours.engine]:
            found.must |= {"D525"}
        if transport == "shm":
            found.may.add("D306")


def _said(worker: Worker, name: str) -> Any:
    fallback = worker.fields.get("dtype", "bfloat16") if name == "kv_dtype" else 0
    return worker.fields.get(name, fallback)


def _ports(spec: Data, found: Opinion) -> None:
    taken: set[int] = set()
    for component in spec["components"].values():
        if component["role"] == "frontend":
            ports = {component["port"] + number for number in range(component.get("replicas", 1))}
            if max(ports) > 65535:
                found.must.add("D312")
            if ports & taken:
                found.must.add("D310")
            taken |= ports


def _ledger(pools: list[Worker], site: Site, found: Opinion) -> None:
    """Ranks against GPUs allotted, and GPUs against those of the nodes."""
    on_gpus = [worker for worker in pools if worker.gpus]
    if any(worker.world > worker.gpus for worker in on_gpus):
        found.must.add("D308")
    if any(worker.gpus > site.gpus and worker.engine in OWN for worker in on_gpus):
        found.must.add("D301")
    for worker in on_gpus:
        span = worker.fields.get("nodes_per_worker", 1)
        if span > site.nodes:
            found.must.add("D314")
        elif span > worker.gpus or ("nodes_per_worker" in worker.fields and -(-worker.gpus // span) > site.gpus):
            found.must.add("D313")
        elif span > 1:
            found.may |= {"D302", "D313"}
    own = [worker for worker in on_gpus if "nodes" in worker.fields]
    for worker in own:
        if worker.gpus > site.gpus * site.nodes:
            found.must |= {"D302", "D313"}
        elif worker.replicas * worker.gpus > worker.fields["nodes"] * site.gpus:
            found.must.add("D313")
        elif not _sure([worker], worker.fields["nodes"], site.gpus):
            found.may |= {"D301", "D313"}
    shared = [worker for worker in on_gpus if worker not in own]
    left = site.nodes - sum(worker.fields["nodes"] for worker in own)
    if left < bool(shared):
        found.must |= {"D302", "D314"} if any(w.gpus > site.gpus * site.nodes for w in own) else {"D314"}
    elif sum(worker.replicas * worker.gpus for worker in shared) > left * site.gpus:
        found.must |= {"D301", "D302"}
    elif not _sure(shared, left, site.gpus):
        found.may |= {"D301", "D302"}


def _caches(spec: Data, pools: list[Worker], facts: Facts, site: Site, found: Opinion) -> None:
    """Where it may be, who keeps it, and whether what all of its workers take is there."""
    cache = spec["components"].get("cache")
    if cache is None:
        return
    targets = [edge.split(" -> ")[0] for edge in spec["edges"] if isinstance(edge, str) and edge.endswith(" -> cache")]
    users = [worker for worker in pools if worker.name in targets]
    if not users:
        found.must.add("D220")
    if any(isinstance(edge, str) and edge.startswith("cache ->") for edge in spec["edges"]):
        found.must.add("D213")
    tier = next(iter(cache["tiers"]))
    if tier == "object" and cache["tiers"]["object"]["url"] not in ("s3://kv-blocks/demo", "file:///shared/kv"):
        found.must |= {"D344", "D112"}
    if any(not _keeps(worker, tier) for worker in users):
        found.must.add("D530")
    size = {"host": cache["tiers"].get("host"), "disk": cache["tiers"].get("disk", {}).get("size")}.get(tier)
    if size is None or found.must:
        return
    if users[0].engine == "native" and _bytes(size) < 8 * facts.kv_bytes(2):
        found.must.add("D346")
    if users[0].engine == "sglang" and _bytes(size) < 10**9 * max(worker.world for worker in users):
        found.must.add("D530")
    _amounts(users, tier, _bytes(size), site, found)


def _amounts(users: list[Worker], tier: str, size: int, site: Site, found: Opinion) -> None:
    """All workers together against all nodes: more is impossible, and what one node holds is sure to fit."""
    needed = size * sum(worker.replicas for worker in users)
    if tier == "host" and needed > site.memory * GIB * site.nodes:
        found.must |= {"D340", "D305"}
    elif tier == "host" and needed > 0.5 * site.memory * GIB:
        found.may |= {"D340", "D305"}
    if tier == "disk" and site.disk_path and needed > site.disk * GIB * site.nodes:
        found.must.add("D342")
    elif tier == "disk" and site.disk_path and needed > site.disk * GIB:
        found.may.add("D342")


def _keeps(worker: Worker, tier: str) -> bool:
    """What engines can: ours of the CPU everything, those of others host memory, where they say so."""
    if worker.engine in OWN:
        return worker.engine == "native"
    if worker.engine == "vllm" and worker.fields["role"] != "aggregated":
        return False
    return tier == "host" and not (worker.engine == "sglang" and worker.fields["role"] == "decode")


def _start(spec: Data, pools: list[Worker], facts: Facts, site: Site, found: Opinion) -> None:
    """Reading takes at least what one node needs of the weights, and at most all of them."""
    if not site.storage or pools[0].engine == "mocker":
        return
    seconds = 2 * facts.parameters / (site.storage * 1e6)
    least = seconds * min(1.0, max(site.gpus, 1) / max(worker.world for worker in pools))
    for code, said in (("D348", spec.get("time_limit")), ("D349", spec["defaults"].get("ready_timeout"))):
        if said is None:
            continue
        number, unit = str(said).split()
        limit = float(number) * {"s": 1, "min": 60, "h": 3600}[unit]
        if limit < 0.9 * min(least, seconds / max(worker.world for worker in pools)):
            found.must.add(code)
        elif limit < 1.1 * seconds:
            found.may.add(code)


def _sure(pools: list[Worker], nodes: int, gpus: int) -> bool:
    """Whether powers of two are put into powers of two, where everything fits that is not too much."""
    return all(gpus % w.gpus == 0 or (w.gpus % gpus == 0 and w.engine not in OWN) for w in pools if gpus) and nodes > 0


def _hosts(pools: list[Worker], facts: Facts, site: Site, found: Opinion) -> None:
    """Host memory of the native engine: weights and pool of every worker; the laptop is one node."""
    needed = 0.0
    for worker in pools:
        if worker.engine == "native" and not worker.gpus:
            item = 4 if worker.fields.get("dtype") == "float32" else 2
            blocks = worker.fields.get("kv_blocks", 0) * worker.fields["block_size"] * facts.kv_bytes(item)
            pool = _bytes(worker.fields["kv_memory"]) if "kv_memory" in worker.fields else blocks
            needed += worker.replicas * (facts.parameters * item + pool)
    if needed > 1.01 * site.memory * GIB * site.nodes:
        found.must.add("D305")
    elif needed > 0.5 * site.memory * GIB:
        found.may.add("D305")
