"""Ways to drive an engine: without a thread, step by step; or as the worker does, with reports from its thread."""

from __future__ import annotations

import queue
from collections import defaultdict
from pathlib import Path

from dynamoc.runtime.engines.mocker import MockRunner
from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.protocol import Runner
from dynamoc.runtime.engines.native.scheduler import Scheduler
from dynamoc.runtime.engines.native.sequence import Step
from dynamoc.runtime.engines.pages import next_word
from dynamoc.runtime.engines.protocol import Engine, EngineRequest, Filled, Prefilled, Reserved, StepReport, Written
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.manifest import KvSettings, WorkerSettings
from dynamoc.runtime.plane.messages import KvEvent, Sampling, TokenOutput

FIRST, VOCAB = 50, 1000
INSTANT: dict[str, object] = {"speedup": 0, "first_token": FIRST, "vocab_size": VOCAB}


def settings(
    engine: str = "mocker",
    *,
    blocks: int = 64,
    block_size: int = 4,
    context_length: int = 256,
    max_batched_tokens: int = 64,
    max_sequences: int = 8,
    prefix_caching: bool = True,
    args: dict[str, object] | None = None,
) -> WorkerSettings:
    """A small worker; the mocker takes no time unless told."""
    if args is None:
        args = INSTANT if engine == "mocker" else {}
    kv = KvSettings(block_size=block_size, blocks=blocks, dtype="float32", prefix_caching=prefix_caching)
    return WorkerSettings(
        engine=engine,
        device="cpu",
        dtype="float32",
        kv=kv,
        context_length=context_length,
        max_batched_tokens=max_batched_tokens,
        max_sequences=max_sequences,
        args=args,
    )


def request(key: int, tokens: list[int], max_tokens: int = 8, *, seed: int = 0, **fields: object) -> EngineRequest:
    """A request; `generated` and `hold_kv` go to it, everything else to its sampling."""
    own = {name: fields.pop(name) for name in ("generated", "hold_kv") if name in fields}
    return EngineRequest(key, tokens, Sampling(max_tokens=max_tokens, seed=seed, **fields), **own)


def mock_tokens(prompt: list[int], count: int, seed: int = 0, vocab: int = VOCAB) -> list[int]:
    """What the mocker generates after `prompt`, worked out token by token."""
    tokens, word, fed = list(prompt), 0, 0
    while len(tokens) < len(prompt) + count:
        while fed < len(tokens):
            word, fed = next_word(word, tokens[fed]), fed + 1
        tokens.append(FIRST + ((word + seed * 0x9E3779B97F4A7C15) >> 11) % (vocab - FIRST))
    return tokens[len(prompt) :]


def page_bytes(tokens: list[int], block_size: int) -> list[bytes]:
    """The pages of a prompt, as a peer would send them."""
    word, words = 0, []
    for token in tokens:
        word = next_word(word, token)
        words.append(word.to_bytes(8, "little"))
    data = b"".join(words)
    data += bytes(-len(data) % (8 * block_size))
    return [data[start : start + 8 * block_size] for start in range(0, len(data), 8 * block_size)]


class Core:
    """A scheduler and a runner without a thread: every step is made by hand, every result kept."""

    def __init__(self, worker: WorkerSettings, runner: Runner | None = None) -> None:
        self.runner = runner or MockRunner(worker, Path())
        self.runner.load(lambda _fraction, _what: None)
        self.scheduler = Scheduler(worker, self.runner.pool().blocks, self.runner.eos_token_ids)
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.finished: dict[int, TokenOutput] = {}
        self.prefilled: dict[int, Prefilled] = {}
        self.reserved: dict[int, Reserved] = {}
        self.filled: dict[int, int] = {}
        self.cached: dict[int, int] = {}
        self.events: list[KvEvent] = []
        self.written: dict[int, list[Written]] = defaultdict(list)
        self.report = self.scheduler.take_report()

    @property
    def pool(self) -> HostPool:
        return self.runner.pool()

    def step(self) -> Step:
        """One step, its books checked."""
        step = self.scheduler.schedule()
        layout = self.runner.layout()
        progress = StepProgress(step, layout.layers, layout.block_size, self._tell)
        sampled = self.runner.execute(step, progress) if step.chunks else []
        progress.finish()
        self.scheduler.finish(step, sampled)
        self.scheduler.check_integrity()
        self.report = self.scheduler.take_report()
        for output in self.report.outputs:
            self._keep(output)
        for prefilled in self.report.prefilled:
            self.prefilled[prefilled.key] = prefilled
            self._keep(prefilled.output)
        self.reserved.update({reserved.key: reserved for reserved in self.report.reserved})
        self.filled.update({filled.key: filled.blocks for filled in self.report.filled})
        self.events.extend(self.report.events)
        return step

    def run(self, limit: int = 10_000) -> list[Step]:
        """Steps until nothing is computed any more."""
        steps: list[Step] = []
        idle = 0
        while idle < 2:
            assert len(steps) < limit, "no end in sight"
            steps.append(self.step())
            idle = 0 if steps[-1].chunks else idle + 1
        return steps

    def close(self) -> None:
        self.runner.close()

    def _tell(self, written: Written) -> None:
        self.written[written.key].append(written)

    def _keep(self, output: TokenOutput) -> None:
        assert output.request_id not in self.finished, "an output after the last one"
        if output.request_id not in self.tokens:
            self.cached[output.request_id] = output.cached_tokens
        self.tokens[output.request_id].extend(output.tokens)
        if output.finish is not None:
            self.finished[output.request_id] = output


def send(source: HostPool, prefilled: Prefilled, target: HostPool, reserved: Reserved) -> None:
    """Move a prompt's KV from the blocks of one pool to those of another, as a transport does."""
    for position in range(reserved.resident, len(reserved.blocks)):
        target.block(reserved.blocks[position])[:] = source.block(prefilled.blocks[position])


class Listener:
    """The worker's end of an engine: reports arrive from its thread, with a deadline."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reports: queue.Queue[StepReport] = queue.Queue()
        self.seen: list[StepReport] = []
        engine.start(self.reports.put)

    def next(self, timeout_s: float = 20.0) -> StepReport:
        """The next report, whatever is in it."""
        report = self.reports.get(timeout=timeout_s)
        self.seen.append(report)
        return report

    def finish(self, *keys: int) -> dict[int, list[int]]:
        """Tokens of these requests, once all are complete."""
        tokens: dict[int, list[int]] = {key: [] for key in keys}
        left = set(keys)
        while left:
            report = self.next()
            assert report.failure is None, report.failure
            for output in report.outputs:
                assert output.error is None, output.error
                tokens[output.request_id].extend(output.tokens)
                if output.finish is not None:
                    left.remove(output.request_id)
        return tokens

    def prefilled(self) -> Prefilled:
        """The next prefill that is complete."""
        while not (report := self.next()).prefilled:
            assert report.failure is None, report.failure
        return report.prefilled[0]

    def reserved(self) -> Reserved:
        """The next reservation."""
        while not (report := self.next()).reserved:
            assert report.failure is None, report.failure
        return report.reserved[0]

    def filled(self) -> Filled:
        """The next one the tiers are done with; they may have been when it was reported."""
        while not self.seen[-1].filled:
            assert self.next().failure is None
        return self.seen[-1].filled[0]
