"""What `config.json` says about a decoder-only model, checked: what we do not compute is refused in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UnsupportedModelError(ValueError):
    """The model folder asks for something that is not implemented; the message says what."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Where the Llama-like families differ. `projection_bias`: the config's `attention_bias` is obeyed."""

    qkv_bias: bool = False
    projection_bias: bool = False
    qk_norm: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(projection_bias=True),
    "MistralForCausalLM": Architecture(),
    "Qwen2ForCausalLM": Architecture(qkv_bias=True),
    "Qwen3ForCausalLM": Architecture(projection_bias=True, qk_norm=True),
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding: base `theta`; `kind` is `default`, `linear` or `llama3`, with its own numbers."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Geometry of a Llama-like model. Widths are in elements."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    norm_epsilon: float
    rope: Rope
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    eos_token_ids: frozenset[int]


def read_config(folder: Path, context_length: int) -> ModelConfig:
    """The checked configuration of a model folder that will see at most `context_length` tokens."""
    raw = _read_json(folder / "config.json")
    architecture = _architecture(raw, context_length)
    try:
        heads, width = int(raw["num_attention_heads"]), int(raw["hidden_size"])
        bias = architecture.projection_bias and bool(raw.get("attention_bias", False))
        config = ModelConfig(
            layers=int(raw["num_hidden_layers"]),
            width=width,
            mlp_width=int(raw["intermediate_size"]),
            heads=heads,
            kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or width // heads),
            vocabulary=int(raw["vocab_size"]),
            positions=int(raw["max_position_embeddings"]),
            norm_epsilon=float(raw["rms_norm_eps"]),
            rope=_rope(raw),
            tied=bool(raw.get("tie_word_embeddings", False)),
            qkv_bias=bias or architecture.qkv_bias,
            output_bias=bias,
            mlp_bias=bool(raw.get("mlp_bias", False)),
            qk_norm=architecture.qk_norm,
            eos_token_ids=_eos_token_ids(folder, raw),
        )
    except KeyError as error:
        raise UnsupportedModelError(f"{folder / 'config.json'} lacks {error}") from error
    if config.heads % config.kv_heads:
        raise UnsupportedModelError(f"{config.heads} query heads do not divide over {config.kv_heads} KV heads")
    if context_length > config.positions:
        raise UnsupportedModelError(
            f"a context of {context_length} tokens is asked for, the model has {config.positions} positions"
        )
    return config


def _architecture(raw: Mapping[str, Any], context_length: int) -> Architecture:
    """The family, after everything that would change the arithmetic was looked for."""
    names = raw.get("architectures") or []
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise UnsupportedModelError(f"architecture {names} is not supported; supported are {', '.join(ARCHITECTURES)}")
    if "quantization_config" in raw:
        method = raw["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModelError(
            f"weights are quantised ({method}); only float32, float16 and bfloat16 are supported"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"activation `{raw['hidden_act']}` is not supported; only `silu` is")
    window = raw.get("sliding_window")
    slides = raw.get("use_sliding_window", True) or "sliding_attention" in (raw.get("layer_types") or ())
    if window is not None and slides and window < context_length:
        raise UnsupportedModelError(
            f"a sliding window of {window} is shorter than the context of {context_length} tokens"
        )
    return ARCHITECTURES[names[0]]


def _rope(raw: Mapping[str, Any]) -> Rope:
    """Both spellings: `rope_theta` with `rope_scaling`, and the newer `rope_parameters`."""
    facts = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = str(facts.get("rope_type", facts.get("type", "default")))
    theta = float(facts.get("rope_theta", raw.get("rope_theta", 10000.0)))
    if float(facts.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))) != 1.0:
        raise UnsupportedModelError("rotary embedding over a part of each head is not supported")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, factor=float(facts["factor"]))
    if kind == "llama3":
        low, high = float(facts["low_freq_factor"]), float(facts["high_freq_factor"])
        original = int(facts["original_max_position_embeddings"])
        if math.isclose(low, high):
            raise UnsupportedModelError("rope scaling `llama3` needs different low and high frequency factors")
        return Rope(theta, kind, float(facts["factor"]), low, high, original)
    raise UnsupportedModelError(f"rope scaling `{kind}` is not supported; supported are default, linear and llama3")


def _eos_token_ids(folder: Path, raw: Mapping[str, Any]) -> frozenset[int]:
    """Ends of sequence from both files: chat models often list theirs in `generation_config.json` only."""
    found: set[int] = set()
    generation = folder / "generation_config.json"
    for facts in (raw, _read_json(generation) if generation.exists() else {}):
        value = facts.get("eos_token_id")
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnsupportedModelError(f"{path} does not exist") from None
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnsupportedModelError(f"{path} does not hold an object")
    return value
