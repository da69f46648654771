"""Decode and prefill throughput of the native engine on a CPU.

    python benchmarks/cpu_engine.py [--model FOLDER] [--dtype bfloat16] [--threads 2] [--rounds 5] [--output FILE]

Ours is the whole engine: queue, scheduler, paged KV, sampler, reports. The ceiling is a plain forward pass over a
contiguous cache with the same packed weights, with nothing around it. The peer is transformers' `generate`, in the
dtype ours computes in. All three run in one process, in turn; the figures are medians over the rounds. Decode contexts
grow from 64 to 96 tokens, prompts are of 512.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.native.models.llama import Llama
from dynamoc.runtime.engines.native.runner import TorchRunner
from dynamoc.runtime.engines.protocol import EngineRequest, StepReport
from dynamoc.runtime.manifest import KvSettings, WorkerSettings
from dynamoc.runtime.plane.messages import Sampling

MODEL = Path("~/.cache/dynamoc/models/HuggingFaceTB/SmolLM2-135M-Instruct").expanduser()
STREAMS = (1, 8, 32)
PROMPT, OUTPUT, LONG = 64, 32, 512
TIMEOUT_S = 300.0

Rate = Callable[[], float]


class Ours:
    """The engine as a worker runs it."""

    def __init__(self, model: Path, dtype: str) -> None:
        kv = KvSettings(block_size=16, blocks=512, dtype=dtype, prefix_caching=False)
        settings = WorkerSettings("native", "cpu", dtype, kv, 1024, max(STREAMS) * PROMPT, max(STREAMS))
        self.runner = TorchRunner(settings, model)
        self.engine = CoreEngine("native", self.runner, settings)
        self.engine.load(lambda _fraction, _what: None)
        self.reports: queue.Queue[tuple[float, StepReport]] = queue.Queue()
        self.engine.start(lambda report: self.reports.put((time.perf_counter(), report)))
        self.random, self.key = Random(0), 0
        assert self.runner.model is not None
        self.model: Llama = self.runner.model

    def decode(self, streams: int) -> float:
        """Tokens per second while all streams decode."""
        first, last = self._run(streams, PROMPT, OUTPUT + 1)
        return streams * OUTPUT / (last - first)

    def prefill(self) -> float:
        """Prompt tokens per second, up to the first token."""
        started = time.perf_counter()
        first, _ = self._run(1, LONG, 1)
        return LONG / (first - started)

    def _run(self, streams: int, prompt: int, output: int) -> tuple[float, float]:
        """When all had their first token, and when all were complete."""
        keys = range(self.key, self.key + streams)
        self.key += streams
        for key in keys:
            sampling = Sampling(max_tokens=output, temperature=0.0, ignore_eos=True)
            self.engine.add(EngineRequest(key, [self.random.randrange(100, 40000) for _ in range(prompt)], sampling))
        started: set[int] = set()
        finished: set[int] = set()
        first = 0.0
        while len(finished) < streams:
            at, report = self.reports.get(timeout=TIMEOUT_S)
            assert report.failure is None, report.failure
            started.update(output.request_id for output in report.outputs)
            finished.update(output.request_id for output in report.outputs if output.finish is not None)
            if not first and len(started) == streams:
                first = at
        return first, at


class Lean:
    """A forward pass and nothing else: our layers' weights, a contiguous cache, argmax."""

    def __init__(self, model: Llama) -> None:
        self.model, self.config = model, model.config
        c = self.config
        shape = (c.layers, 2, max(STREAMS), c.kv_heads, LONG, c.head_dim)
        self.cache = torch.randn(shape).to(model.norm.dtype)

    @torch.inference_mode()
    def decode(self, streams: int) -> float:
        """Tokens per second of `OUTPUT` steps."""
        tokens = torch.randint(100, 40000, (streams,))
        started = time.perf_counter()
        for position in range(PROMPT, PROMPT + OUTPUT):
            tokens = self._logits(self._forward(tokens, torch.full((streams,), position), streams)).argmax(-1)
        return streams * OUTPUT / (time.perf_counter() - started)

    @torch.inference_mode()
    def prefill(self) -> float:
        """Prompt tokens per second."""
        tokens = torch.randint(100, 40000, (LONG,))
        started = time.perf_counter()
        self._logits(self._forward(tokens, torch.arange(LONG), 1)[-1:]).argmax(-1)
        return LONG / (time.perf_counter() - started)

    def _forward(self, tokens: Tensor, positions: Tensor, streams: int) -> Tensor:
        model, c = self.model, self.config
        rows = model.rotary.rows(positions)
        x = model.embedding.index_select(0, tokens).to(model.norm.dtype)
        first, end = int(positions[0]), int(positions[-1]) + 1
        for layer, cache in zip(model.layers, self.cache, strict=True):
            h = rms_norm(x, (c.width,), layer.input_norm, c.norm_epsilon)
            qkv = layer.qkv(h).view(streams, -1, c.heads + 2 * c.kv_heads, c.head_dim)
            model.rotary.rotate_(qkv.flatten(0, 1)[:, : -c.kv_heads], rows)
            query, *new = qkv.transpose(1, 2).split((c.heads, c.kv_heads, c.kv_heads), 1)
            for part, stored in zip(new, cache, strict=True):
                stored[:streams, :, first:end] = part
            keys, values = (stored[:streams, :, :end] for stored in cache)
            if end - first == 1:
                query = query.reshape(streams, c.kv_heads, -1, c.head_dim)
                attended = scaled_dot_product_attention(query, keys, values)
            else:
                attended = scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)
                attended = attended.transpose(1, 2)
            x = x + layer.output(attended.reshape(-1, c.heads * c.head_dim))
            gate, up = layer.gate_up(rms_norm(x, (c.width,), layer.mlp_norm, c.norm_epsilon)).chunk(2, -1)
            x = x + layer.down(silu(gate) * up)
        return x

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.head(rms_norm(hidden, (self.config.width,), self.model.norm, self.config.norm_epsilon))


class Transformers:
    """`generate`, batched, without padding: all prompts are equally long."""

    def __init__(self, model: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)

    def decode(self, streams: int) -> float:
        """Tokens per second after the first token of each."""
        tokens = torch.randint(100, 40000, (streams, PROMPT))
        short, long = self._seconds(tokens, 1), self._seconds(tokens, OUTPUT + 1)
        return streams * OUTPUT / (long - short)

    def prefill(self) -> float:
        """Prompt tokens per second, up to the first token."""
        return LONG / self._seconds(torch.randint(100, 40000, (1, LONG)), 1)

    def _seconds(self, tokens: Tensor, output: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            mask = torch.ones_like(tokens)
            self.model.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=output,
                min_new_tokens=output,
                do_sample=False,
                pad_token_id=0,
            )
        return time.perf_counter() - started


def measure(model: Path, dtype: str, rounds: int) -> tuple[dict[str, dict[str, list[float]]], str]:
    """Rates by figure and by who, and the dtype computed in."""
    ours = Ours(model, dtype)
    compute = ours.runner.dtype
    lean, peer = Lean(ours.model), Transformers(model, compute)
    figures: dict[str, dict[str, Rate]] = {
        f"decode, {streams} streams": {
            who: lambda one=one, streams=streams: one.decode(streams)
            for who, one in (("ours", ours), ("ceiling", lean), ("peer", peer))
        }
        for streams in STREAMS
    }
    figures[f"prefill, {LONG} tokens"] = {"ours": ours.prefill, "ceiling": lean.prefill, "peer": peer.prefill}
    rates: dict[str, dict[str, list[float]]] = {name: {who: [] for who in runs} for name, runs in figures.items()}
    for number in range(rounds + 1):  # the first round warms up
        for name, runs in figures.items():
            for who, rate in runs.items():
                measured = rate()
                print(f"round {number}: {name}: {who} {measured:.1f} tokens/s", file=sys.stderr, flush=True)
                if number:
                    rates[name][who].append(measured)
    ours.engine.stop()
    return rates, str(compute).removeprefix("torch.")


def processor() -> str:
    """The CPU's name and how many there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} CPUs, {capability}"


def main() -> None:
    """Measure, print a table, then one JSON object a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(options.threads)}
    if any(os.environ.get(name) != value for name, value in wanted.items()):  # libgomp reads them once, at its start
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    before = os.getloadavg()[0]
    rates, compute = measure(options.model, options.dtype, options.rounds)
    facts: dict[str, Any] = {
        "unit": "tokens/s",
        "n": options.rounds,
        "hardware": f"{processor()}, {options.threads} threads",
        "load_average": {"before": before, "after": os.getloadavg()[0]},
        "dtype": {"weights": options.dtype, "compute": compute},
        "versions": {name: version(name) for name in ("dynamoc", "torch", "transformers")},
        "command": f"python benchmarks/cpu_engine.py --dtype {options.dtype} --rounds {options.rounds}",
    }
    print(f"{facts['hardware']}; {compute}; load average {before:.1f}")
    print(f"{'tokens/s, median (best)':26}{'ours':>16}{'ceiling':>16}{'peer':>16}{'ours/ceiling':>14}")
    made = []
    for name, by_who in rates.items():
        middle = {who: statistics.median(values) for who, values in by_who.items()}
        ratio = middle["ours"] / middle["ceiling"]
        cells = "".join(f"{middle[who]:9.0f} ({max(by_who[who]):4.0f})" for who in by_who)
        print(f"{name:26}{cells}{ratio:14.2f}")
        rounded = {who: round(value, 1) for who, value in middle.items()}
        made.append({"figure": f"native engine on CPU: {name}", **rounded, "ratio": round(ratio, 3), **facts})
    for figure in made:
        print(json.dumps(figure))
    if options.output:
        options.output.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
