"""Turn a GGUF file into a Hugging Face folder: weights, configuration, tokenizer, chat template."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dynamoc.runtime.models.gguf import GgufError, GgufFile

PROVENANCE = "provenance.json"
"""Lists the folder's files with their SHA-256, so that a damaged folder is noticed."""

CONTROL_TOKEN = 3

TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
PER_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}

Progress = Callable[[float, str], None]


def convert_gguf(source: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write `folder` in one step: it is complete or it is not there. GgufError, FileExistsError or OSError."""
    report = progress or _silent
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with GgufFile(source) as gguf:
        _check_supported(gguf)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            save_file(_weights(gguf, report), staging / "model.safetensors", metadata={"format": "pt"})
            _write_json(staging / "config.json", _configuration(gguf))
            _tokenizer(gguf).save(str(staging / "tokenizer.json"))
            _write_json(staging / "tokenizer_config.json", _tokenizer_configuration(gguf))
            report(0.9, "checksums")
            _seal(staging, source)
            staging.chmod(0o755)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _silent(_fraction: float, _what: str) -> None:
    """For callers that show no progress."""


def intact(folder: Path) -> bool:
    """Whether a converted folder holds exactly what was written to it."""
    try:
        files = json.loads((folder / PROVENANCE).read_text())["files"]
        return all(sha256(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_supported(gguf: GgufFile) -> None:
    architecture = gguf.metadata.get("general.architecture")
    if architecture != "llama":
        raise GgufError(f"architecture `{architecture}` is not supported: only `llama` is")
    model, pre = gguf.metadata.get("tokenizer.ggml.model"), gguf.metadata.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(f"`{name}`" for name in PRE_TOKENIZERS)
        raise GgufError(
            f"tokenizer `{model}` with pre-tokenizer `{pre}` is not supported: only byte-level BPE with {known}"
        )


def _weights(gguf: GgufFile, progress: Progress) -> dict[str, torch.Tensor]:
    heads = {"attn_q": _fact(gguf, "attention.head_count"), "attn_k": _fact(gguf, "attention.head_count_kv")}
    weights = {}
    for index, name in enumerate(gguf.tensors):
        tensor = gguf.tensor(name)
        kind = name.split(".")[2] if name.startswith("blk.") else ""
        if kind in heads:
            tensor = _half_split(tensor, heads[kind])
        weights[_hf_name(name)] = torch.from_numpy(np.ascontiguousarray(tensor)).to(torch.bfloat16)
        progress(0.9 * ((index + 1) / len(gguf.tensors)), "tensors")
    return weights


def _half_split(tensor: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a rotary projection from interleaved pairs (GGUF) to two halves (Hugging Face)."""
    pairs = tensor.reshape(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def _hf_name(name: str) -> str:
    if name in TOP_LEVEL:
        return TOP_LEVEL[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in PER_LAYER:
        return f"model.layers.{parts[1]}.{PER_LAYER[parts[2]]}.{parts[3]}"
    raise GgufError(f"tensor `{name}` has no place in a Llama model")


def _fact(gguf: GgufFile, key: str) -> Any:
    try:
        return gguf.metadata[f"llama.{key}"]
    except KeyError:
        raise GgufError(f"metadata `llama.{key}` is missing") from None


def _configuration(gguf: GgufFile) -> dict[str, object]:
    heads, width, tokens = _fact(gguf, "attention.head_count"), _fact(gguf, "embedding_length"), _vocabulary(gguf)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": width,
        "intermediate_size": _fact(gguf, "feed_forward_length"),
        "num_hidden_layers": _fact(gguf, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _fact(gguf, "attention.head_count_kv"),
        "head_dim": width // heads,
        "hidden_act": "silu",
        "max_position_embeddings": _fact(gguf, "context_length"),
        "rms_norm_eps": _shortest(_fact(gguf, "attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(gguf.metadata.get("llama.rope.freq_base", 10000.0)),
        "vocab_size": len(tokens),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "bos_token_id": gguf.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": gguf.metadata.get("tokenizer.ggml.padding_token_id"),
    }


def _shortest(value: float) -> float:
    """The decimal number that was meant by a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _vocabulary(gguf: GgufFile) -> list[str]:
    try:
        tokens: list[str] = gguf.metadata["tokenizer.ggml.tokens"]
    except KeyError:
        raise GgufError("the file holds no vocabulary") from None
    return tokens


def _tokenizer(gguf: GgufFile) -> Tokenizer:
    tokens, kinds = _vocabulary(gguf), gguf.metadata.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ")) for merge in gguf.metadata.get("tokenizer.ggml.merges", [])]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[gguf.metadata.get("tokenizer.ggml.pre", "gpt-2")]()
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=False) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def _tokenizer_configuration(gguf: GgufFile) -> dict[str, object]:
    tokens = _vocabulary(gguf)
    special = {
        f"{name}_token": tokens[gguf.metadata[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in gguf.metadata
    }
    template = gguf.metadata.get("tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        **({"chat_template": template} if template else {}),
        "model_max_length": _fact(gguf, "context_length"),
        "clean_up_tokenization_spaces": False,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _seal(folder: Path, source: Path) -> None:
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    _write_json(folder / PROVENANCE, {"source": source.name, "source_sha256": sha256(source), "files": files})
    for name in (*files, PROVENANCE):
        (folder / name).chmod(0o644)
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
