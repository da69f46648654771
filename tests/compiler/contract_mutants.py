"""Pairs of workers whose flags are changed on one side or both, wide expert parallelism, ports and time limits.

Each mutant comes with what must become of it, in arithmetic that shares nothing with the rules: `must` are the errors
it has to have, exactly; `warns` the warnings, of those that are about the contract.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from mutants import H200, LLAMA, Data, Site, pipeline

R1 = "deepseek-ai/DeepSeek-R1"
GB200 = Site(12, 4, "GB200", 184)
ENGINES = ("vllm", "sglang", "trtllm")
ALIKE = {"fp8_e4m3": "fp8", "bf16": "bfloat16"}
"""Two names of one format of KV."""
DTYPES = (None, "auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16", "bf16")
BLOCKS = (None, 16, 32, 64, 128)
WAYS = {
    "vllm": (None, "NixlConnector", "MooncakeConnector", "LMCacheConnectorV1", "SomeConnector"),
    "sglang": (None, "nixl", "mooncake"),
    "trtllm": (None, "DEFAULT", "NIXL", "UCX", "MPI"),
}
EDGES = {"NixlConnector": "nixl", "MooncakeConnector": "mooncake", "LMCacheConnectorV1": "lmcache"}
TP = {"vllm": "tensor-parallel-size", "sglang": "tp-size", "trtllm": "tensor_parallel_size"}


@dataclass(frozen=True)
class Told:
    """A mutant, and its fate."""

    kind: str
    name: str
    spec: Data
    site: str
    must: frozenset[str] = frozenset()
    warns: frozenset[str] = field(default=frozenset())


def contract_mutants() -> Iterator[Told]:
    """All of them."""
    for engine in ENGINES:
        yield from _formats(engine)
        yield from _blocks(engine)
        yield from _ways(engine)
        yield from _sizes(engine)
        yield from _roles(engine)
        yield from _ports(engine)
    yield from _engines()
    yield from _wide_sglang()
    yield from _wide_vllm()
    yield from _wide_trtllm()
    yield from _limits()


def pair(engine: str, prefill: Data, decode: Data, *, replicas: int = 1, **more: Any) -> Data:
    """Prefill and decode workers of four GPUs each, with flags of their own."""
    workers: dict[str, Data] = {
        name: {"role": name, "replicas": replicas, "args": {TP[engine]: 4} | args}
        for name, args in (("prefill", prefill), ("decode", decode))
    }
    defaults = {"engine": engine, "context_length": 16384}
    return pipeline(LLAMA, defaults, workers, load={"isl": 8192, "osl": 1024}) | more


def codes(*found: tuple[bool, str]) -> frozenset[str]:
    return frozenset(code for broken, code in found if broken)


def _formats(engine: str) -> Iterator[Told]:
    """What is not said, or left to the engine, is the engine's business on either side."""
    for left, right in product(DTYPES, DTYPES):
        said = [ALIKE.get(str(name), str(name)) for name in (left, right) if name not in (None, "auto")]
        spec = pair(engine, _format(engine, left), _format(engine, right))
        yield Told("kv dtype", f"{engine} {left} {right}", spec, H200.text(), codes((len(set(said)) > 1, "D520")))


def _format(engine: str, name: str | None) -> Data:
    if name is None:
        return {}
    return {"kv_cache_config": {"dtype": name}} if engine == "trtllm" else {"kv-cache-dtype": name}


def _blocks(engine: str) -> Iterator[Told]:
    """vLLM takes blocks of another size apart; the others send a block as it is."""
    for left, right in product(BLOCKS, BLOCKS):
        differ = None not in (left, right) and left != right
        sides: list[Data] = [
            {}
            if size is None
            else {"kv_cache_config": {"tokens_per_block": size}}
            if engine == "trtllm"
            else {"page-size" if engine == "sglang" else "block-size": size}
            for size in (left, right)
        ]
        errors, warnings = codes((differ and engine != "vllm", "D520")), codes((differ and engine == "vllm", "D520"))
        yield Told("block size", f"{engine} {left} {right}", pair(engine, *sides), H200.text(), errors, warnings)


def _way(engine: str, name: str | None, side: str = "kv_both") -> Data:
    if name is None:
        return {}
    if engine == "vllm":
        return {"kv-transfer-config": json.dumps({"kv_connector": name, "kv_role": side})}
    if engine == "sglang":
        return {"disaggregation-transfer-backend": name}
    return {"cache_transceiver_config": {"backend": name}}


def _ways(engine: str) -> Iterator[Told]:
    """Both sides by the same; and by what the edge says, where it says something."""
    for left, right in product(WAYS[engine], WAYS[engine]):
        known = [name for name in (left, right) if name not in (None, "DEFAULT", "SomeConnector")]
        spec = pair(engine, _way(engine, left), _way(engine, right))
        errors = codes((len(set(known)) > 1, "D528"))
        yield Told("transport", f"{engine} {left} {right}", spec, H200.text(), errors)
        for declared in ("nixl", "mooncake"):
            edge = {"from": "prefill", "to": "decode", "transport": declared}
            against = any(EDGES.get(str(name), str(name).lower()) != declared for name in known)
            changed = spec | {"edges": ["frontend -> router -> prefill", edge]}
            both = errors | codes((against, "D522"))
            yield Told("transport", f"{engine} {left} {right} on {declared}", changed, H200.text(), both)


def _sizes(engine: str) -> Iterator[Told]:
    """Heads are sent to whoever has them, so the sizes may differ; 64 heads must divide over each."""
    for left, right in product((1, 2, 3, 4, 6, 8), (2, 4, 5, 8)):
        sides = [{TP[engine]: size} for size in (left, right)]
        errors = codes((64 % left + 64 % right > 0, "D503"))
        yield Told("tp ratio", f"{engine} {left} {right}", pair(engine, *sides), H200.text(), errors)


def _roles(engine: str) -> Iterator[Told]:
    """A flag that gives a worker the other part."""
    parts = ("prefill", "decode")
    for ours, theirs in product((None, *parts), (None, *parts)):
        wrong = ours == "decode" or theirs == "prefill"
        if engine == "vllm":
            sides = [{} if part is None else {f"is-{part}-worker": True} for part in (ours, theirs)]
            yield Told(
                "role", f"vllm switch {ours} {theirs}", pair(engine, *sides), H200.text(), codes((wrong, "D522"))
            )
        sides = [{} if part is None else {"disaggregation-mode": part} for part in (ours, theirs)]
        yield Told("role", f"{engine} {ours} {theirs}", pair(engine, *sides), H200.text(), codes((wrong, "D522")))
    for ours, theirs in product(("kv_both", "kv_producer", "kv_consumer"), repeat=2) if engine == "vllm" else ():
        spec = pair(engine, _way(engine, "NixlConnector", ours), _way(engine, "NixlConnector", theirs))
        wrong = ours == "kv_consumer" or theirs == "kv_producer"
        yield Told("role", f"vllm {ours} {theirs}", spec, H200.text(), codes((wrong, "D522")))


PORTS = {
    "vllm": ("port", "data-parallel-rpc-port", "master-port"),
    "sglang": ("port", "disaggregation-bootstrap-port"),
    "trtllm": ("port",),
}


def _ports(engine: str) -> Iterator[Told]:
    """Two workers of four GPUs share a node of eight, and one port if their flags say one."""
    for flag, replicas, port in product(PORTS[engine], (1, 2), (0, 1, 8000, 13345, 65535, 65536, 100_000)):
        site = Site(2, 8, "H200", 140).text()
        fits = 1 <= port <= 65535
        meets = fits and (replicas == 2 or port == 8000)
        warns = codes((meets, "D319"), (not fits, "D524"))
        spec = pair(engine, {str(flag): port}, {}, replicas=int(replicas))
        yield Told("side-channel port", f"{engine} {flag} {port} x {replicas}", spec, site, frozenset(), warns)


def _engines() -> Iterator[Told]:
    """KV of one engine means nothing to another."""
    for left, right in product(ENGINES, ENGINES):
        spec = pair(left, {}, {})
        spec["components"]["decode"] |= {"engine": right, "args": {TP[right]: 4}}
        yield Told("engine", f"{left} {right}", spec, H200.text(), codes((left != right, "D520")))


def wide(engine: str, args: Data, **fields: Any) -> Data:
    """One worker of DeepSeek-R1: 256 experts, 128 heads of attention."""
    workers = {"decode": {"role": "aggregated", "args": args} | fields}
    return pipeline(R1, {"engine": engine, "context_length": 4096}, workers, load={"isl": 1024, "osl": 1024})


def _wide_sglang() -> Iterator[Told]:
    """Attention is cut over tp / dp ranks, experts and their copies over ep of tp."""
    for tp, dp, ep, copies in product((8, 16, 32, 48), (1, 2, 8, 16, 48), (1, 4, 8, 16, 32, 48), (0, 8, 16, 32)):
        if dp > tp:
            continue
        args = {"tp-size": tp, "dp-size": dp, "ep-size": ep, "ep-num-redundant-experts": copies}
        heads = tp % dp == 0 and 128 % (tp // dp) == 0
        whole = ep == 1 or (256 + copies) % ep == 0
        errors = codes(
            (tp % dp > 0, "D516"), (tp % dp == 0 and not heads, "D503"), (tp % ep > 0, "D512"), (not whole, "D514")
        )
        spec = wide("sglang", args | {"enable-dp-attention": True})
        yield Told("wide ep", f"sglang tp {tp} dp {dp} ep {ep} + {copies}", spec, GB200.text(), errors)


def _wide_vllm() -> Iterator[Told]:
    """Experts are over tp x dp ranks; its balancer wants as many copies on each."""
    for tp, dp, eplb, copies in product((1, 2, 4, 8), (1, 3, 4, 8, 16), (False, True), (0, 16, 32)):
        ranks = tp * dp
        if not 8 <= ranks <= 48:
            continue
        args: Data = {"tensor-parallel-size": tp, "data-parallel-size": dp, "enable-expert-parallel": True}
        args |= {"enable-eplb": True, "eplb-config": json.dumps({"num_redundant_experts": copies})} if eplb else {}
        errors = codes((eplb and (256 + copies) % ranks > 0, "D514"))
        yield Told("wide ep", f"vllm tp {tp} dp {dp} eplb {eplb} + {copies}", wide("vllm", args), GB200.text(), errors)
        for ep in (2, ranks // 2, ranks, 2 * ranks):
            spec = wide("vllm", args | {"enable-expert-parallel": ep > 1}, parallel={"ep": ep})
            spread = codes((ep != ranks, "D512"), (eplb and (256 + copies) % ep > 0, "D514"))
            yield Told("wide ep", f"vllm tp {tp} dp {dp} ep {ep} eplb {eplb} + {copies}", spec, GB200.text(), spread)


def _wide_trtllm() -> Iterator[Told]:
    """moe_tp x moe_ep is tp, and the slots of its balancer divide over ep."""
    for tp, ep, cut, slots in product((8, 16, 32), (1, 2, 3, 8, 16, 32), (None, 1, 2, 4), (None, 256, 272, 288, 300)):
        args: Data = {"tensor_parallel_size": tp, "moe_expert_parallel_size": ep, "enable_attention_dp": True}
        args |= {} if cut is None else {"moe_tensor_parallel_size": cut}
        args |= {} if slots is None else {"moe_config": {"load_balancer": {"num_slots": slots}}}
        errors = codes(
            (tp % ep > 0, "D512"),
            (cut is not None and cut * ep != tp, "D515"),
            (slots is not None and ep > 1 and slots % ep > 0, "D514"),
        )
        yield Told(
            "wide ep", f"trtllm tp {tp} ep {ep} x {cut} slots {slots}", wide("trtllm", args), GB200.text(), errors
        )


def _limits() -> Iterator[Told]:
    """A partition of four hours, and of so many nodes."""
    for hours, most in product((1, 3, 4, 5, 24), (1, 2, 3)):
        partition = f"partitions: [{{name: batch, max_time: 4 h, max_nodes: {most}}}]\nsite: {{partition: batch}}\n"
        spec = pair("sglang", {"tp-size": 8}, {"tp-size": 8}, time_limit=f"{hours}:00:00")
        errors = codes((hours > 4, "D317"), (most < 2, "D318"))
        yield Told("time limit", f"{hours} h, {most} nodes", spec, H200.text() + partition, errors)
