"""An engine that computes nothing but takes its time: scheduling, KV and pacing are real, the model is not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from dynamoc.runtime.engines.arguments import read_arguments
from dynamoc.runtime.engines.native.arriving import Arriving
from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.sequence import Chunk, Sampled, Step
from dynamoc.runtime.engines.paged import PagedRunner, certain
from dynamoc.runtime.kv.memory_service.kept import keep_as
from dynamoc.runtime.manifest import WorkerSettings

SEED_STRIDE = 0x9E3779B97F4A7C15
"""An odd number with its bits well spread: neighbouring seeds draw unlike tokens."""

Time = Annotated[float, msgspec.Meta(ge=0)]


class MockArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What a step costs, and which tokens come out.

    A step takes `prefill_base_ms` or `decode_step_ms` (the larger of those that apply), plus a share per computed
    prompt token, per pair of prompt tokens that attend, per decoded sequence and per KV block it reads; all divided
    by `speedup`. Speedup 0 takes no time at all. Tokens are `first_token` … `vocab_size` - 1. `kv` as of `native`.
    """

    speedup: Time = 1.0
    prefill_base_ms: Time = 2.0
    prefill_us_per_token: Time = 40.0
    prefill_ns_per_pair: Time = 1.0
    decode_step_ms: Time = 6.0
    decode_us_per_sequence: Time = 20.0
    decode_us_per_block: Time = 0.5
    vocab_size: Annotated[int, msgspec.Meta(ge=1, le=2**32)] = 32_000
    first_token: Annotated[int, msgspec.Meta(ge=0)] = 1_000
    kv: Literal["private", "kept"] = "private"


class MockRunner(PagedRunner):
    """Steps on a clock. Token `i` is a function of the tokens before it and, unless greedy, of the seed."""

    eos_token_ids: frozenset[int] = frozenset()

    def __init__(self, settings: WorkerSettings, model_folder: Path) -> None:
        del model_folder  # there are no weights
        arguments = read_arguments("mocker", settings.args, MockArguments)
        super().__init__(settings.kv, keep_as("mocker", settings) if arguments.kv == "kept" else None)
        if arguments.first_token >= arguments.vocab_size:
            text = f"first_token {arguments.first_token} must be below vocab_size {arguments.vocab_size}"
            raise ValueError(f"engine `mocker`: wrong argument: {text}")
        self._arguments = arguments
        self._first, self._span = arguments.first_token, arguments.vocab_size - arguments.first_token
        self._block_size = settings.kv.block_size
        self._clock = StepClock()

    def execute(
        self, step: Step, progress: StepProgress | None = None, arriving: Arriving | None = None
    ) -> list[Sampled]:
        """Check and write the pages, draw the tokens, and return when the time is up; PageError for a bad page."""
        del progress, arriving  # pages have one layer: they are told, and arrive, whole
        seconds = step_seconds(step, self._arguments, self._block_size)
        deadline = self._clock.begin(step, seconds)
        words = self.read_and_write(step)
        sampled = [self._draw(chunk, word) for chunk, word in zip(step.chunks, words, strict=True) if chunk.sample]
        self._clock.sleep_until(deadline)
        return sampled

    def _draw(self, chunk: Chunk, word: int) -> Sampled:
        sampling = chunk.sequence.sampling
        seed = sampling.seed if sampling.temperature > 0 else 0  # greedy knows no chance
        token = self._first + ((word + seed * SEED_STRIDE) >> 11) % self._span
        return certain(token, sampling.logprobs) if sampling.logprobs >= 0 else Sampled(token)


def step_seconds(step: Step, arguments: MockArguments, block_size: int) -> float:
    """How long the step takes."""
    if not arguments.speedup:
        return 0.0
    base_ms = 0.0
    us = 0.0
    for chunk in step.chunks:
        end = chunk.start + chunk.count
        if chunk.count == 1:
            base_ms = max(base_ms, arguments.decode_step_ms)
            us += arguments.decode_us_per_sequence + arguments.decode_us_per_block * (-(-end // block_size))
        else:
            base_ms = max(base_ms, arguments.prefill_base_ms)
            pairs = chunk.count * (chunk.start + end) / 2
            us += arguments.prefill_us_per_token * chunk.count + arguments.prefill_ns_per_pair * pairs / 1e3
    return (base_ms / 1e3 + us / 1e6) / arguments.speedup


class StepClock:
    """Steps that follow each other without a pause begin when the last one was due, so lateness does not add up."""

    def __init__(self) -> None:
        self._due = 0.0
        self._keys: frozenset[int] = frozenset()

    def begin(self, step: Step, seconds: float) -> float:
        """When a step that begins now is over. More than one step's time is never caught up."""
        now = time.monotonic()
        follows = step.chunks[0].sequence.key in self._keys
        self._keys = frozenset([chunk.sequence.key for chunk in step.chunks])
        self._due = (max(self._due, now - seconds) if follows else now) + seconds
        return self._due

    def sleep_until(self, deadline: float) -> None:
        """Return at `deadline`, or at once if it has passed."""
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(left)
