"""A config.json as Hugging Face has it -> Geometry: one reader for mixers, one for MLPs, each layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamoc.compiler.geometry import Layer
from dynamoc.compiler.layers import (
    Compressed,
    Dense,
    Experts,
    GatedDelta,
    Grouped,
    Indexer,
    Latent,
    Mamba,
    Mixer,
    Mlp,
)

Config = Mapping[str, Any]

FAMILIES = frozenset(
    {
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "smollm",
        "gemma",
        "granite",
        "olmo2",
        "mixtral",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_5_text",
        "qwen3_5_moe_text",
        "gpt_oss",
        "glm4_moe",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v4",
        "kimi_k2",
        "glm_moe_dsa",
        "minimax_m2",
        "minimax_m3",
        "minimax_m3_vl_text",
        "nemotron_h",
    }
)
"""Values of `model_type` whose weights are known to the last matrix."""

BIASED = frozenset({"qwen2", "gpt_oss"})
"""Families with a bias on queries and keys that their config.json does not mention."""

PATTERN = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}


def stack_of(config: Config) -> tuple[Layer, ...]:
    """Every layer of a model. The config has been checked for what all models have."""
    kinds = _block_types(config)
    if kinds:
        return _hybrid(config, kinds)
    mixers, mlps = _mixers(config), _mlps(config)
    made: dict[tuple[int, int], Layer] = {}
    for mixer, mlp in zip(mixers, mlps, strict=True):
        made.setdefault((id(mixer), id(mlp)), Layer(mixer, mlp))
    return tuple(made[id(mixer), id(mlp)] for mixer, mlp in zip(mixers, mlps, strict=True))


def layer_count(config: Config) -> int | None:
    """`num_hidden_layers`, or the length of the list of blocks."""
    kinds = _block_types(config)
    found = len(kinds) if kinds else config.get("num_hidden_layers")
    return found if isinstance(found, int) else None


def mtp_layers(config: Config) -> int:
    """Layers that predict further tokens."""
    for key in ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return 0


def _block_types(config: Config) -> list[str]:
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [PATTERN.get(letter, "mlp") for letter in pattern]
    return [str(kind) for kind in config.get("layers_block_type") or ()]


def _hybrid(config: Config, kinds: Sequence[str]) -> tuple[Layer, ...]:
    """Layers that are each a mixer or an MLP."""
    gateless = 2 if str(config.get("mlp_hidden_act", "silu")).startswith("relu") else 3
    mamba = Mamba(
        config.get("mamba_num_heads", 0),
        config.get("mamba_head_dim", 0),
        config.get("ssm_state_size", 0),
        config.get("n_groups", 1),
        config.get("conv_kernel", 4),
    )
    made = {
        "attention": Layer(_grouped(config), None),
        "mamba": Layer(mamba, None),
        "mlp": Layer(None, Dense(config.get("intermediate_size") or 0, gateless)),
    }
    if "moe" in kinds:
        made["moe"] = Layer(None, _experts(config, gateless))
    return tuple(made.get(kind, made["attention"]) for kind in kinds)


def _mixers(config: Config) -> list[Mixer]:
    layers = int(config["num_hidden_layers"])
    if config.get("compress_ratios"):
        return _compressed(config, layers)
    if config.get("kv_lora_rank"):
        latent: Mixer = _latent(config)
        return [latent] * layers
    full = _grouped(config)
    kinds = _layer_types(config, layers)
    others: dict[str, Mixer] = {"full_attention": full}
    if "sliding_attention" in kinds:
        others["sliding_attention"] = _grouped(config, config.get("sliding_window"))
    if "linear_attention" in kinds:
        others["linear_attention"] = GatedDelta(
            config["linear_num_key_heads"],
            config["linear_num_value_heads"],
            config["linear_key_head_dim"],
            config["linear_value_head_dim"],
            config.get("linear_conv_kernel_dim", 4),
        )
    if isinstance(config.get("sparse_attention_config"), Mapping):
        return _sparse(config, layers)
    return [others.get(kind, full) for kind in kinds]


def _layer_types(config: Config, layers: int) -> list[str]:
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return [str(kind) for kind in kinds]
    every = config.get("full_attention_interval")
    if isinstance(every, int) and "linear_num_key_heads" in config:
        return ["linear_attention" if (index + 1) % every else "full_attention" for index in range(layers)]
    return ["full_attention"] * layers


def _grouped(config: Config, window: int | None = None, index_dim: int = 0) -> Grouped:
    heads = int(config["num_attention_heads"])
    dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    family = str(config.get("model_type"))
    return Grouped(
        heads,
        int(config.get("num_key_value_heads") or heads),
        dim,
        int(config.get("v_head_dim") or dim),
        window,
        gated=bool(config.get("attn_output_gate")) or family == "qwen3_next",
        bias=bool(config.get("attention_bias")) or family in BIASED,
        index_dim=index_dim,
    )


def _sparse(config: Config, layers: int) -> list[Mixer]:
    """Block-sparse attention: an index key beside KV, in the layers that are marked, or that have experts."""
    sparse = config["sparse_attention_config"]
    marks = sparse.get("sparse_attention_freq") or config.get("moe_layer_freq") or [1] * layers
    full, indexed = _grouped(config), _grouped(config, index_dim=int(sparse.get("sparse_index_dim", 0)))
    return [indexed if mark else full for mark in marks]


def _latent(config: Config) -> Latent:
    indexed = isinstance(config.get("index_n_heads"), int)
    return Latent(
        heads=int(config["num_attention_heads"]),
        query_rank=config.get("q_lora_rank"),
        kv_rank=int(config["kv_lora_rank"]),
        nope_dim=int(config["qk_nope_head_dim"]),
        rope_dim=int(config["qk_rope_head_dim"]),
        value_dim=int(config["v_head_dim"]),
        indexer=Indexer(config["index_n_heads"], config["index_head_dim"]) if indexed else None,
    )


def _compressed(config: Config, layers: int) -> list[Mixer]:
    indexer = Indexer(config["index_n_heads"], config["index_head_dim"])
    made: dict[int, Mixer] = {
        ratio: Compressed(
            heads=config["num_attention_heads"],
            head_dim=config["head_dim"],
            query_rank=config["q_lora_rank"],
            output_rank=config["o_lora_rank"],
            groups=config["o_groups"],
            window=config["sliding_window"],
            ratio=ratio,
            indexer=indexer if ratio == min(r for r in config["compress_ratios"] if r) else None,
        )
        for ratio in set(config["compress_ratios"])
    }
    return [made[ratio] for ratio in config["compress_ratios"][:layers]]


def _mlps(config: Config) -> list[Mlp | None]:
    layers = int(config["num_hidden_layers"])
    width = config.get("dense_intermediate_size") or config.get("intermediate_size")
    dense = None if width is None else Dense(int(width))
    if not _routed(config):
        return [dense] * layers
    experts = _experts(config)
    return [dense if is_dense else experts for is_dense in _dense_layers(config, layers)]


def _routed(config: Config) -> int:
    for key in ("n_routed_experts", "num_local_experts", "num_experts"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return 0


def _experts(config: Config, matrices: int = 3) -> Experts:
    width = int(config.get("moe_intermediate_size") or config["intermediate_size"])
    shared = next((config[key] for key in SHARED if isinstance(config.get(key), int)), None)
    if shared is None:
        shared = int(config.get("n_shared_experts") or 0) * width
    return Experts(
        routed=_routed(config),
        active=int(config.get("num_experts_per_tok") or config.get("experts_per_token") or 1),
        width=width,
        shared_width=int(shared),
        matrices=matrices,
        bias=config.get("model_type") == "gpt_oss",
        latent=config.get("moe_latent_size"),
    )


SHARED = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")


def _dense_layers(config: Config, layers: int) -> list[bool]:
    """Which layers of a mixture have a dense MLP."""
    kinds = config.get("mlp_layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return [kind == "dense" for kind in kinds]
    marks = config.get("moe_layer_freq")
    if isinstance(marks, list) and len(marks) == layers:
        return [not mark for mark in marks]
    first, step = int(config.get("first_k_dense_replace") or 0), int(config.get("decoder_sparse_step") or 1)
    alone = set(config.get("mlp_only_layers") or ())
    return [index < first or index in alone or bool((index + 1) % step) for index in range(layers)]
