"""What `config.json` says about a decoder-only model, checked: what we do not compute is refused in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

Form = TypeVar("Form")


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


class _RopeFacts(msgspec.Struct):
    """`rope_parameters`, or the older `rope_scaling`."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float = 1.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int | None = None


class _Facts(msgspec.Struct):
    """The fields of `config.json` that we look at."""

    architectures: list[str]
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float = 10000.0
    rope_parameters: _RopeFacts | None = None
    rope_scaling: _RopeFacts | None = None
    partial_rotary_factor: float = 1.0
    sliding_window: int | None = None
    use_sliding_window: bool = True
    quantization_config: dict[str, object] | None = None
    eos_token_id: int | list[int] | None = None


class _GenerationFacts(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def read_config(folder: Path, context_length: int) -> ModelConfig:
    """The checked configuration of a model folder that will see at most `context_length` tokens."""
    facts = _read(folder / "config.json", _Facts)
    architecture = _architecture(facts)
    heads, kv_heads = facts.num_attention_heads, facts.num_key_value_heads or facts.num_attention_heads
    if heads % kv_heads:
        raise UnsupportedModelError(f"{heads} query heads do not divide over {kv_heads} KV heads")
    _check_context(facts, context_length)
    bias = architecture.projection_bias and facts.attention_bias
    return ModelConfig(
        layers=facts.num_hidden_layers,
        width=facts.hidden_size,
        mlp_width=facts.intermediate_size,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=facts.head_dim or facts.hidden_size // heads,
        vocabulary=facts.vocab_size,
        positions=facts.max_position_embeddings,
        norm_epsilon=facts.rms_norm_eps,
        rope=_rope(facts),
        tied=facts.tie_word_embeddings,
        qkv_bias=bias or architecture.qkv_bias,
        output_bias=bias,
        mlp_bias=facts.mlp_bias,
        qk_norm=architecture.qk_norm,
        eos_token_ids=_eos_token_ids(folder, facts),
    )


def _architecture(facts: _Facts) -> Architecture:
    """The family, after everything that would change the arithmetic was looked for."""
    names = facts.architectures
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise UnsupportedModelError(f"architecture {names} is not supported; supported are {', '.join(ARCHITECTURES)}")
    if facts.quantization_config is not None:
        method = facts.quantization_config.get("quant_method", "unknown")
        raise UnsupportedModelError(
            f"weights are quantised ({method}); only float32, float16 and bfloat16 are supported"
        )
    if facts.hidden_act != "silu":
        raise UnsupportedModelError(f"activation `{facts.hidden_act}` is not supported; only `silu` is")
    return ARCHITECTURES[names[0]]


def _check_context(facts: _Facts, context_length: int) -> None:
    window = facts.sliding_window
    if window is not None and facts.use_sliding_window and window < context_length:
        raise UnsupportedModelError(
            f"a sliding window of {window} is shorter than the context of {context_length} tokens"
        )
    if context_length > facts.max_position_embeddings:
        raise UnsupportedModelError(
            f"a context of {context_length} tokens is asked for, the model has {facts.max_position_embeddings}"
        )


def _rope(facts: _Facts) -> Rope:
    """Both spellings: `rope_theta` with `rope_scaling`, and the newer `rope_parameters`."""
    own = facts.rope_parameters or facts.rope_scaling or _RopeFacts()
    kind = own.rope_type or own.type or "default"
    theta = facts.rope_theta if own.rope_theta is None else own.rope_theta
    if not own.partial_rotary_factor == facts.partial_rotary_factor == 1.0:
        raise UnsupportedModelError("rotary embedding over a part of each head is not supported")
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedModelError(f"rope scaling `{kind}` is not supported; supported are default, linear and llama3")
    if kind == "llama3" and own.low_freq_factor >= own.high_freq_factor:
        raise UnsupportedModelError("rope scaling `llama3` needs low_freq_factor below high_freq_factor")
    original = own.original_max_position_embeddings or facts.max_position_embeddings
    return Rope(theta, kind, own.factor, own.low_freq_factor, own.high_freq_factor, original)


def _eos_token_ids(folder: Path, facts: _Facts) -> frozenset[int]:
    """Ends of sequence from both files: chat models often list theirs in `generation_config.json` only."""
    generation = folder / "generation_config.json"
    further = _read(generation, _GenerationFacts).eos_token_id if generation.exists() else None
    found: set[int] = set()
    for value in (facts.eos_token_id, further):
        found.update(value if isinstance(value, list) else () if value is None else (value,))
    return frozenset(found)


def _read(path: Path, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(path.read_bytes(), type=form)
    except FileNotFoundError:
        raise UnsupportedModelError(f"{path} does not exist") from None
    except msgspec.MsgspecError as error:
        raise UnsupportedModelError(f"{path}: {error}") from error
