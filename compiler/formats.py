"""Which number format a checkpoint gives to which of its parts: `quantization_config` in our words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dynamoc.compiler.geometry import PARTS, PLAIN_PARTS

MODULES: Mapping[str, tuple[str, ...]] = {
    "attention": ("self_attn", "attn", "mixer", "linear_attn", "attention"),
    "experts": ("experts", "block_sparse_moe"),
    "shared": ("shared_expert", "shared_experts"),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "(gate|up"),
    "head": ("lm_head",),
}
"""Pieces of module names that stand for a part."""

MODELOPT: Mapping[str, str] = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8_block",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A8_NVFP4_FP8": "nvfp4",
    "MXFP8": "mxfp8",
    "MXFP4": "mxfp4",
    "W4A16_AWQ": "awq",
    "INT4_AWQ": "awq",
}
SMALL_GROUP = 32
BYTE = 8
NIBBLE = 4


def read_formats(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Format by part; empty where nothing is quantised, None where the quantiser is not known."""
    quantised = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(quantised, Mapping):
        return {}
    kind = _format(quantised)
    if kind is None:
        return None
    ignored = [
        str(name)
        for key in ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules")
        for name in quantised.get(key) or ()
    ]
    formats = uniform(kind, spared=_spared(ignored))
    if config.get("expert_dtype") == "fp4":
        formats["experts"] = "mxfp4"
    return formats


def uniform(kind: str, spared: Iterable[str] = ()) -> dict[str, str]:
    """One format for all that quantisers take, the rest as trained."""
    plain = {*PLAIN_PARTS, *spared}
    return {part: "bfloat16" if part in plain else kind for part in PARTS}


def _spared(ignored: Iterable[str]) -> set[str]:
    """Parts that are named among what is left alone, as a whole."""
    spared = set()
    for name in ignored:
        spared |= {part for part, pieces in MODULES.items() if any(_names(name, piece) for piece in pieces)}
    return spared


def _names(name: str, piece: str) -> bool:
    """Whether a pattern speaks of a part, not of one of its layers: `model.layers.*.self_attn`."""
    if "shared" in name and "shared" not in piece:
        return False
    numbered = any(word.isdigit() for word in name.replace("\\.", ".").split("."))
    return piece in name and not numbered


def _format(quantised: Mapping[str, Any]) -> str | None:
    method = str(quantised.get("quant_method", "")).lower()
    group = quantised.get("group_size")
    if method == "fp8":
        block = quantised.get("weight_block_size")
        return "fp8" if not block else "mxfp8" if block[0] == 1 else "fp8_block"
    if method in ("awq", "gptq"):
        return _integer(quantised.get("bits", NIBBLE), group)
    if method == "compressed-tensors":
        return _compressed(quantised)
    if method == "modelopt":
        return MODELOPT.get(str(quantised.get("quant_algo", "")).upper())
    return method if method in ("mxfp4", "mxfp8", "nvfp4") else None


def _compressed(quantised: Mapping[str, Any]) -> str | None:
    """The weights of the only group."""
    groups = quantised.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        return None
    weights = next(iter(groups.values())).get("weights") or {}
    bits, kind = weights.get("num_bits"), weights.get("type")
    if kind == "float":
        return "fp8" if bits == BYTE else "nvfp4" if bits == NIBBLE else None
    return _integer(bits, weights.get("group_size"))


def _integer(bits: Any, group: Any) -> str | None:
    if bits == NIBBLE:
        return "int4" if isinstance(group, int) and 0 < group <= SMALL_GROUP else "awq"
    return "int8" if bits == BYTE else None
