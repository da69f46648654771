"""Random models of two layers, written by transformers, so that it is the oracle for what we compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dynamoc.runtime.engines.native.runner import TorchRunner
from dynamoc.runtime.engines.native.sequence import Chunk, Sampled, Sequence, Step
from dynamoc.runtime.manifest import KvSettings, WorkerSettings
from dynamoc.runtime.plane.messages import Sampling

VOCABULARY = 160
GEOMETRY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 72,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def write_model(folder: Path, model_type: str = "llama", **changes: Any) -> Any:
    """Save a random model in float32; what transformers made of it is returned."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**GEOMETRY, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # transformers starts these at 0 and 1, which hides mistakes
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of a `config.json`; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def worker_settings(dtype: str = "float32", kv_dtype: str | None = None, **changes: Any) -> WorkerSettings:
    """A small native worker; `blocks`, `block_size`, `prefix_caching` go to its KV cache."""
    blocks, block_size = changes.pop("blocks", 64), changes.pop("block_size", 4)
    kv = KvSettings(block_size, blocks, kv_dtype or dtype, changes.pop("prefix_caching", True))
    # One thread: at this size a second one only waits, and tests share the machine.
    args = {"threads": 1, **changes.pop("args", {})}
    facts = {
        "args": args,
        "device": "cpu",
        "context_length": 128,
        "max_batched_tokens": 64,
        "max_sequences": 8,
        **changes,
    }
    return WorkerSettings(engine="native", dtype=dtype, kv=kv, **facts)


def load_runner(folder: Path, **changes: Any) -> TorchRunner:
    """A runner ready to execute."""
    runner = TorchRunner(worker_settings(**changes), folder)
    runner.load(lambda _fraction, _what: None)
    return runner


def sequence(tokens: list[int], blocks: list[int], **sampling: Any) -> Sequence:
    """A request with its blocks; greedy unless told."""
    wanted = Sampling(**{"max_tokens": 64, "temperature": 0.0, **sampling})
    return Sequence(0, list(tokens), len(tokens), wanted, blocks=blocks)


def prefill(runner: TorchRunner, *sequences: Sequence) -> list[Sampled]:
    """Compute whole prompts in one step."""
    return runner.execute(Step(tuple(Chunk(s, 0, len(s.tokens), sample=True) for s in sequences)))


def decode(runner: TorchRunner, *sequences: Sequence) -> list[Sampled]:
    """Compute the last token of each."""
    return runner.execute(Step(tuple(Chunk(s, len(s.tokens) - 1, 1, sample=True) for s in sequences)))
