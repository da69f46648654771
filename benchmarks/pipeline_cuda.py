"""How long decoding waits for KV in a running pipeline: native engine, prefill on GPU 0, decode on GPU 1.

    python benchmarks/pipeline_cuda.py [--rounds 11] [--tokens 8192] [--device cuda] [--folder DIR] [--output FILE]

`dynamoc up` starts frontend, router and two workers, NVLink between them, with a model of Llama-3.1-8B's shape, random
weights and a tokenizer of as many words, all made here (16 GB in FOLDER; nothing is downloaded). One prompt after
another of as many tokens as one step takes, none with a prefix of another, is answered with four tokens. The workers'
own metrics say what each transfer took: `from the first token` counts from when that token is known at the prefill
worker until the decode worker has verified all KV, which is how long decoding waits for the transfer alone; `from the
last layer` counts from when the last layer's keys and values were in the pool, with the rest of that layer, the head
and the sampling, which no transfer causes.
`--device cpu` runs the same over shared memory with a small model: to try the script, not for figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cuda_run import against, need_gpus
from safetensors.torch import save_file

from dynamoc.runtime.engines.native.models.config import read_config
from dynamoc.runtime.engines.native.models.llama import expected_tensors

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/integration"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support/ports"))
from pipelines import Pipeline, serving, streams

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128_000,
}
SMALL: dict[str, Any] = {
    **LLAMA,
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "bos_token_id": 1,
}
SPEC = """\
dynamoc: 1
name: pipeline-cuda
model: {{ref: random, path: {model}}}
defaults: {{device: {device}, dtype: {dtype}, block_size: 16, context_length: {context}, kv_blocks: {blocks},
  max_batched_tokens: {tokens}}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  prefill: {{role: prefill}}
  decode: {{role: decode}}
edges: [frontend -> router -> prefill, {{from: prefill, to: decode, transport: {transport}}}]
"""
PROMPTS_HELD = 3
ANSWER = 4
WAITED = "from the first token"
WAITS = {
    "from the last layer": "dynamoc_kv_transfer_verified_seconds",
    WAITED: "dynamoc_kv_transfer_delay_seconds",
}
TARGET_MS = 1.0
READY_S = 420.0


def make_model(folder: Path, config: dict[str, Any], device: str) -> None:
    """Random weights in one file a layer, and a word for every token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    words = {f"w{number}": number for number in range(config["vocab_size"])}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in expected_tensors(read_config(folder, 1)).items():
        words_of_name = name.split(".")
        part = words_of_name[2] if words_of_name[1] == "layers" else "ends"
        files.setdefault(f"model-{part}.safetensors", {})[name] = shape
    for file, shapes in files.items():
        save_file({name: weights(shape, device) for name, shape in shapes.items()}, folder / file)
    where = {name: file for file, shapes in files.items() for name in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def weights(shape: tuple[int, ...], device: str) -> torch.Tensor:
    """Normal, as models begin; norms are ones."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02).cpu()


def ask(pipeline: Pipeline, prompt: str) -> float:
    """Seconds to the first token of one answer."""
    message = {"role": "user", "content": prompt}
    body = {"model": "random", "messages": [message], "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
    began = time.monotonic()
    (answer,) = asyncio.run(streams(pipeline.url, [body]))
    if answer.error:
        raise SystemExit(f"a prompt failed: {answer.error}")
    return time.monotonic() - began


def read(pipeline: Pipeline) -> dict[str, tuple[float, float]]:
    """Counts and sums so far."""
    return {
        what: (pipeline.metric("decode-0", f"{name}_count"), pipeline.metric("decode-0", f"{name}_sum"))
        for what, name in WAITS.items()
    }


def measure(spec: str, tokens: int, words: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round; the first two warm up."""
    found: dict[str, list[float]] = {what: [] for what in (*WAITS, "answered")}
    numbers = random.Random(5)
    with tempfile.TemporaryDirectory() as folder, serving(spec, Path(folder), ready_s=READY_S) as pipeline:
        for _ in range(rounds + 2):
            before = read(pipeline)
            took = ask(pipeline, " ".join(f"w{numbers.randrange(1, words)}" for _ in range(tokens)))
            after = read(pipeline)
            for what in WAITS:
                (count, seconds), (counts, total) = before[what], after[what]
                if counts != count + 1:
                    raise SystemExit(f"one prompt was transferred {counts - count:g} times")
                found[what].append(1e3 * (total - seconds))
            found["answered"].append(1e3 * took)
        wrong = pipeline.metric("decode-0", "dynamoc_kv_checksum_failures_total")
        if wrong:
            raise SystemExit(f"{wrong:g} blocks were not what was sent")
    return {what: times[2:] for what, times in found.items()}


def figures(found: dict[str, list[float]], kv_bytes: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One object a beginning."""
    return [
        {
            "figure": f"decoding may begin, {what}, two workers",
            "ours": round(statistics.median(found[what]), 3),
            "ceiling": None,
            "peer": None,
            "target": TARGET_MS if what == WAITED else None,
            "unit": "ms",
            "n": len(found[what]),
            "fastest": round(min(found[what]), 3),
            "slowest": round(max(found[what]), 3),
            "kv_bytes": kv_bytes,
            "answered_ms": round(statistics.median(found["answered"]), 1),
            **facts,
        }
        for what in WAITS
    ]


def main() -> None:
    """Measure, print, write `results/pipeline_cuda.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--folder", type=Path, help="keep the model there, or take the one that is there")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "pipeline_cuda.json")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    config = LLAMA if on_gpu else SMALL
    facts: dict[str, Any] = {"command": f"python benchmarks/pipeline_cuda.py --rounds {options.rounds}"}
    if on_gpu:
        need_gpus(2)
        import cuda_bench as bench

        facts = bench.facts(facts["command"])
    blocks = -(-(options.tokens + ANSWER) // 16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        if not (folder / "model.safetensors.index.json").exists():
            make_model(folder, config, options.device)
        spec = SPEC.format(
            model=folder,
            device=options.device,
            dtype="bfloat16" if on_gpu else "float32",
            context=2 * options.tokens,
            blocks=PROMPTS_HELD * blocks,
            tokens=options.tokens,
            transport="nvlink" if on_gpu else "shm",
        )
        found = measure(spec, options.tokens, config["vocab_size"], options.rounds)
    item = 2 if on_gpu else 4
    token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * item
    made = figures(found, -(-options.tokens // 16) * 16 * token, facts)
    for row in made:
        target = (
            f"; target {row['target']:g}: {against(row['ours'], row['target'], most=True)}" if row["target"] else ""
        )
        print(f"{row['figure']:70} {row['ours']:8} ms ({row['fastest']} to {row['slowest']}){target}")
    if on_gpu:
        bench.save(options.output, made)
    else:
        print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
