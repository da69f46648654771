"""Llama and its kin (Mistral, Qwen2, Qwen3, SmolLM): one decoder whose flags come from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from dynamoc.runtime.engines.native.attention.protocol import Attention
from dynamoc.runtime.engines.native.linear import Linear, MakeLinear
from dynamoc.runtime.engines.native.models.config import ModelConfig
from dynamoc.runtime.engines.native.models.rotary import Rotary
from dynamoc.runtime.engines.native.weights import Shape, TensorSource

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. `query_norm` and `key_norm` exist where heads are normalised (Qwen3)."""

    input_norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Llama:
    """Token ids in, hidden states out; logits only for the rows that are asked for."""

    def __init__(
        self, config: ModelConfig, embedding: Tensor, layers: list[Layer], norm: Tensor, head: Linear, rotary: Rotary
    ) -> None:
        self.config = config
        self.embedding = embedding
        self.layers = layers
        self.norm = norm
        self.head = head
        self.rotary = rotary

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: Attention,
        stored: Callable[[int], None] | None = None,
        needed: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Run all layers over `[tokens]`; `[tokens, width]` before the final norm.

        `stored` hears how many layers have their keys and values in the pool; `needed`, of each layer whose keys and
        values are read next, and returns when they may be.
        """
        rows = self.rotary.rows(positions)
        x = self.embedding.index_select(0, tokens).to(self.norm.dtype)
        for index, layer in enumerate(self.layers):
            if needed is not None:
                needed(index)
            attended = self._attend(index, layer, x, rows, attention)
            if stored is not None:
                stored(index + 1)
            x.add_(layer.output(attended))
            gate, up = layer.gate_up(self._norm(x, layer.mlp_norm)).chunk(2, -1)
            x.add_(layer.down(silu(gate).mul_(up)))
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """`[rows, width]` to float32 `[rows, vocabulary]`."""
        return self.head(self._norm(hidden, self.norm)).float()

    def _attend(self, index: int, layer: Layer, x: Tensor, rows: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        config = self.config
        heads = config.heads + 2 * config.kv_heads
        qkv = layer.qkv(self._norm(x, layer.input_norm)).view(-1, heads, config.head_dim)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = qkv[:, : config.heads], qkv[:, config.heads : -config.kv_heads]
            query.copy_(self._norm(query, layer.query_norm))
            key.copy_(self._norm(key, layer.key_norm))
        self.rotary.rotate_(qkv[:, : -config.kv_heads], rows)
        return attention.run(index, qkv).view(-1, config.heads * config.head_dim)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight.shape, weight, self.config.norm_epsilon)


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of all tensors the model needs."""
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, Shape] = {EMBEDDING: (config.vocabulary, config.width), FINAL_NORM: (config.width,)}
    if not config.tied:
        shapes[HEAD] = (config.vocabulary, config.width)
    for index in range(config.layers):
        attention, mlp = f"model.layers.{index}.self_attn", f"model.layers.{index}.mlp"
        shapes[f"model.layers.{index}.input_layernorm.weight"] = (config.width,)
        shapes[f"model.layers.{index}.post_attention_layernorm.weight"] = (config.width,)
        for name, rows in zip(QKV, (query, key, key), strict=True):
            _linear_shapes(shapes, f"{attention}.{name}", rows, config.width, bias=config.qkv_bias)
        _linear_shapes(shapes, f"{attention}.o_proj", config.width, query, bias=config.output_bias)
        for name in ("gate_proj", "up_proj"):
            _linear_shapes(shapes, f"{mlp}.{name}", config.mlp_width, config.width, bias=config.mlp_bias)
        _linear_shapes(shapes, f"{mlp}.down_proj", config.width, config.mlp_width, bias=config.mlp_bias)
        if config.qk_norm:
            shapes[f"{attention}.q_norm.weight"] = shapes[f"{attention}.k_norm.weight"] = (config.head_dim,)
    return shapes


def optional_tensors(config: ModelConfig) -> frozenset[str]:
    """Names that files carry although nothing depends on them."""
    inverse = {f"model.layers.{index}.self_attn.rotary_emb.inv_freq" for index in range(config.layers)}
    return frozenset(inverse | ({HEAD} if config.tied else set()))


def build_llama(
    config: ModelConfig,
    weights: TensorSource,
    dtype: torch.dtype,
    positions: int,
    make: MakeLinear,
    progress: Callable[[float], None],
) -> Llama:
    """Fuse q, k, v and gate, up; lay each product's weight out with `make`. `progress` takes a fraction in 0..1."""
    layers = []
    for index in range(config.layers):
        layers.append(_layer(config, weights, f"model.layers.{index}", dtype, make))
        progress((index + 1) / (config.layers + 1))
    head = make(weights.take(EMBEDDING if config.tied else HEAD, dtype), None)
    embedding = weights.take(EMBEDDING, None)
    rotary = Rotary(config.rope, config.head_dim, positions, dtype, weights.device)
    progress(1.0)
    return Llama(config, embedding, layers, weights.take(FINAL_NORM, dtype), head, rotary)


def _layer(config: ModelConfig, weights: TensorSource, prefix: str, dtype: torch.dtype, make: MakeLinear) -> Layer:
    def linear(*names: str, bias: bool) -> Linear:
        stacked = weights.stack([f"{prefix}.{name}.weight" for name in names], dtype)
        return make(stacked, weights.stack([f"{prefix}.{name}.bias" for name in names], dtype) if bias else None)

    def norm(name: str) -> Tensor:
        return weights.take(f"{prefix}.{name}.weight", dtype)

    return Layer(
        input_norm=norm("input_layernorm"),
        qkv=linear(*(f"self_attn.{name}" for name in QKV), bias=config.qkv_bias),
        query_norm=norm("self_attn.q_norm") if config.qk_norm else None,
        key_norm=norm("self_attn.k_norm") if config.qk_norm else None,
        output=linear("self_attn.o_proj", bias=config.output_bias),
        mlp_norm=norm("post_attention_layernorm"),
        gate_up=linear("mlp.gate_proj", "mlp.up_proj", bias=config.mlp_bias),
        down=linear("mlp.down_proj", bias=config.mlp_bias),
    )


def _linear_shapes(shapes: dict[str, Shape], name: str, rows: int, columns: int, *, bias: bool) -> None:
    shapes[f"{name}.weight"] = (rows, columns)
    if bias:
        shapes[f"{name}.bias"] = (rows,)
