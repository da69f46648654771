"""The memory of one GPU of a worker: what its rank holds, and how many tokens of KV are left room for.

Weights and KV are counted, layer by layer. Activations, graphs, buffers and the runtime are estimates: `certain`
leaves them out but for the least that any engine needs, so that it can prove a worker impossible.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Any

import msgspec
from msgspec.structs import replace

from dynamoc.compiler.geometry import BITS, Geometry, Layer
from dynamoc.compiler.layers import Cut, Weight
from dynamoc.compiler.memory import GIB

LEAST_RUNTIME = GIB
"""Driver context, loaded kernels and the buffers of collectives: no engine is below it."""
RUNTIME = 2 * GIB
COMMUNICATION = GIB
EXCHANGE = 2 * GIB
"""Dispatch and combine buffers of experts that are exchanged between ranks."""
GRAPHS = GIB
LOGIT_COPIES = 2
BYTE = 8

KV_BITS: Mapping[str, float] = {
    **BITS,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "fp8_ds_mla": 8,
    "fp8_inc": 8,
    "half": 16,
    "float": 32,
    "fp4_e2m1": 4.5,
}
"""Bits of one element of KV, in the words of any engine."""


class Pool(StrEnum):
    """What an engine's memory fraction is a fraction of."""

    TOTAL = "total"
    """Of the GPU: weights, activations and KV together."""
    STATIC = "static"
    """Of what is free at the start: weights and KV; the rest is for everything else."""
    FREE = "free"
    """Of what is left when everything else has its place: KV."""
    TOLD = "told"
    """Of nothing: the pool is as large as the spec says, and `kv_bytes` is its size."""


class Sharding(msgspec.Struct, frozen=True):
    """Over how many ranks of a worker each kind of weight is cut."""

    heads: int = 1
    tensor: int = 1
    shared: int = 1
    experts: int = 1
    vocabulary: int = 1
    stages: int = 1
    sequence: int = 1
    """Ranks over which the tokens of one sequence are spread."""
    groups: int = 1
    """Data-parallel groups: each has requests and KV of its own."""
    redundant_experts: int = 0

    def ranks(self, cut: Cut) -> int:
        """Ranks that share what is cut so."""
        sizes = {
            Cut.HEADS: self.heads,
            Cut.TENSOR: self.tensor,
            Cut.SHARED: self.shared,
            Cut.EXPERTS: self.experts,
            Cut.VOCABULARY: self.vocabulary,
        }
        return sizes.get(cut, 1)


class Usage(msgspec.Struct, frozen=True):
    """How an engine uses a GPU, from its own options."""

    sharding: Sharding
    pool: Pool
    fraction: float
    tokens: int
    """Of one step, at most."""
    sequences: int
    dtype: str
    kv_dtype: str
    kv_dtype_is_ours: bool = False
    """Nobody said; what was counted is the type of the activations."""
    graphs: bool = True
    exchanges_experts: bool = False
    drafts: bool = False
    """The layers that predict further tokens are loaded."""
    kv_tokens: int | None = None
    """Size of the pool where it was told."""
    kv_bytes: int | None = None
    """The same, in bytes of a rank."""
    needs_context: bool = False
    """It refuses to start without room for one sequence of full length."""
    fraction_is_ours: bool = False
    """The engine's default, as far as we know it: nothing is proved with it."""


class Account(msgspec.Struct, frozen=True):
    """Bytes of one rank, the fullest. `kv` is the pool, negative where there is no room for any."""

    gpu: int
    weights: float
    activations: float
    graphs: float
    communication: float
    runtime: float
    kv: float
    token: float
    """Bytes that each further token of a sequence takes of the pool."""
    sharding: Sharding
    kv_tokens: int | None = None

    @property
    def tokens(self) -> int | None:
        """Tokens of KV one data-parallel group can hold; None where sequences take the same whatever their length."""
        if not self.token:
            return self.kv_tokens
        room = max(0, int(self.kv / self.token))
        return room if self.kv_tokens is None else min(room, self.kv_tokens)

    @property
    def spare(self) -> float:
        """What nothing is put in."""
        return self.gpu - self.weights - self.activations - self.graphs - self.communication - self.runtime - self.kv


def account(geometry: Geometry, usage: Usage, gpu: int) -> Account:
    """What we expect of a rank."""
    terms: dict[str, Any] = {
        "weights": weight_bytes(geometry, usage),
        "activations": activation_bytes(geometry, usage),
        "graphs": float(GRAPHS) if usage.graphs else 0.0,
        "communication": _communication(usage),
        "runtime": float(RUNTIME),
    }
    kv, token = _pool(usage, gpu, **terms), token_bytes(geometry, usage)
    return Account(gpu, kv=kv, token=token, sharding=usage.sharding, kv_tokens=usage.kv_tokens, **terms)


def certain(geometry: Geometry, usage: Usage, gpu: int) -> Account:
    """The most that can be left for KV: stages as even as can be, and nothing else but the least runtime."""
    least: dict[str, Any] = {
        "weights": weight_bytes(geometry, usage, even=True),
        "activations": 0.0,
        "graphs": 0.0,
        "communication": 0.0,
        "runtime": float(LEAST_RUNTIME),
    }
    if usage.fraction_is_ours:
        usage = replace(usage, fraction=1.0)
    if usage.kv_dtype_is_ours:
        usage = replace(usage, kv_dtype="fp8")
    kv = _pool(usage, gpu, **least)
    return Account(gpu, **least, kv=kv, token=token_bytes(geometry, usage), sharding=usage.sharding)


def _pool(
    usage: Usage, gpu: int, weights: float, activations: float, graphs: float, communication: float, runtime: float
) -> float:
    """Bytes that the engine's fraction leaves for KV, or those it was told."""
    if usage.kv_bytes is not None:
        return usage.kv_bytes
    match usage.pool:
        case Pool.TOTAL:
            return usage.fraction * gpu - weights - activations - communication - runtime
        case Pool.STATIC:
            return usage.fraction * (gpu - runtime) - weights
        case Pool.FREE:
            return usage.fraction * (gpu - weights - activations - graphs - communication - runtime)
        case Pool.TOLD:
            return 0.0


def weight_bytes(geometry: Geometry, usage: Usage, *, even: bool = False) -> float:
    """Weights of the fullest stage on one rank, or of the mean stage."""
    blocks = geometry.blocks
    distinct = {layer: _layer_bytes(layer, geometry, usage) for layer in set(blocks)}
    sizes = [distinct[layer] for layer in blocks]
    ends = [_bytes(weight, geometry, usage) for weight in (geometry.embedding, geometry.head)]
    ends[1] += _bytes(Weight("norm", geometry.hidden + geometry.extra), geometry, usage)
    stages = usage.sharding.stages
    if even:
        return (sum(sizes) + sum(ends)) / stages
    draft = geometry.mtp_layers and usage.drafts
    if draft:
        projection = Weight("mlp", 2 * geometry.hidden**2, Cut.NONE)
        ends[1] += sizes[-1] + _bytes(projection, geometry, usage)
    return max(
        sum(sizes[start:stop]) + (ends[0] if stage == 0 else 0) + (ends[1] if stage == stages - 1 else 0)
        for stage, (start, stop) in enumerate(_stages(len(blocks), stages))
    )


def _layer_bytes(layer: Layer, geometry: Geometry, usage: Usage) -> float:
    return sum(_bytes(weight, geometry, usage) for weight in layer.weights(geometry.hidden))


def _bytes(weight: Weight, geometry: Geometry, usage: Usage) -> float:
    elements = weight.per_rank(usage.sharding.ranks(weight.cut))
    if weight.cut is Cut.EXPERTS and geometry.experts is not None:
        routed = geometry.experts.routed
        elements *= (routed + usage.sharding.redundant_experts) / routed
    return elements * geometry.bits(weight.part, usage.dtype) / BYTE


def _stages(layers: int, stages: int) -> list[tuple[int, int]]:
    """Layers of each pipeline stage, the first ones one longer where they do not divide."""
    each, longer = divmod(layers, stages)
    starts = [stage * each + min(stage, longer) for stage in range(stages + 1)]
    return list(pairwise(starts))


def activation_bytes(geometry: Geometry, usage: Usage) -> float:
    """The residual stream, the widest product of a layer, and the logits with a copy for sampling."""
    sharding = usage.sharding
    widest = 2 * (geometry.intermediate or 0) / sharding.tensor
    experts = geometry.experts
    if experts is not None:
        widest = max(widest, 2 * experts.active * experts.width * sharding.heads / sharding.experts)
    step = usage.tokens * (4 * geometry.hidden + widest) * 2
    logits = min(usage.sequences, usage.tokens) * geometry.vocabulary * 4 * LOGIT_COPIES / sharding.vocabulary
    return step + logits


def _communication(usage: Usage) -> float:
    if usage.exchanges_experts:
        return float(COMMUNICATION + EXCHANGE)
    alone = usage.sharding.heads == usage.sharding.experts == usage.sharding.stages == 1
    return 0.0 if alone else float(COMMUNICATION)


def token_bytes(geometry: Geometry, usage: Usage) -> float:
    """What a further token takes on the fullest rank, once the windows are full."""
    return _kv_bytes(geometry, usage, None)


def sequence_bytes(geometry: Geometry, usage: Usage, tokens: int) -> float:
    """KV and states of one sequence on the fullest rank."""
    return _kv_bytes(geometry, usage, tokens)


def _kv_bytes(geometry: Geometry, usage: Usage, tokens: int | None) -> float:
    """Of a sequence of so many tokens; of one more token of a long one where that is None."""
    blocks, sharding = geometry.blocks, usage.sharding
    item = KV_BITS[usage.kv_dtype] / BYTE
    sizes: dict[int, float] = {}
    for layer in {id(layer): layer for layer in blocks}.values():
        sizes[id(layer)] = 0.0
        if layer.mixer is not None:
            cache = layer.mixer.cache(sharding.heads)
            each = (cache.elements * item + cache.extra_bytes) / sharding.sequence
            if tokens is None:
                sizes[id(layer)] = each if cache.window is None else 0.0
            else:
                sizes[id(layer)] = each * min(tokens, cache.window or tokens) + cache.state_bytes
    stages = _stages(len(blocks), sharding.stages)
    return max(sum(sizes[id(layer)] for layer in blocks[start:stop]) for start, stop in stages)
