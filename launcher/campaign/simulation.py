"""A load point in simulated time: the same requests as the built-in client's, asked of a simulated pipeline."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import dynamoc
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.memory import kv_block_bytes
from dynamoc.compiler.plan import Plan
from dynamoc.launcher.load.generator import Measured
from dynamoc.launcher.load.point import LoadPoint
from dynamoc.launcher.load.prompts import drawn
from dynamoc.launcher.load.run import row_of
from dynamoc.launcher.load.trace import TraceLine, read_trace
from dynamoc.launcher.results.record import RequestRecord
from dynamoc.launcher.results.row import Row
from dynamoc.runtime.manifest import Manifest
from dynamoc.runtime.simulation.asked import Answered, Asked, Wire
from dynamoc.runtime.simulation.pipeline import SimulatedPipeline

TOOL = "simulated"
LABEL = {"estimate": "simulated time"}
"""Of every row that was computed and not seen."""
MILLI = 1000.0
FIRST_UNLIKE = 1 << 24
"""Tokens of prompts from here on are like no others; those of prefixes and traces are below."""
TOKENS = 1 << 32
BYTES_PER_S = {"shm": 5e9, "tcp": 1e9, "nvlink": 200e9, "nixl": 40e9, "ucx": 40e9, "mooncake": 40e9, "mpi": 40e9}
LATENCY_S = 0.0005
"""What a transfer is taken to cost; figures of one link, not measured ones."""


def simulate(plan: Plan, manifest: Manifest, point: LoadPoint, gpus: int, run: str) -> Row:
    """The row of a point, the same for the same plan and point; LoadError for a trace that cannot be read."""
    pipeline = SimulatedPipeline(manifest, _wire(plan), point.seed)
    prompts = _Prompts(point)
    width = point.concurrency
    warmup = list(itertools.islice(prompts.asked("warmup"), point.warmup_requests))
    pipeline.closed_loop(warmup, width or 1, point.deadline_s)
    begin = pipeline.now_s
    asked = list(
        prompts.of_trace() if point.trace is not None else itertools.islice(prompts.asked("main"), point.requests)
    )
    left = max(0.0, point.deadline_s - begin)
    if point.rate is None and point.trace is None:
        answers = pipeline.closed_loop(asked, width or len(asked), left)
    else:
        answers = pipeline.open_loop(asked, width, left)
    complete = len(answers) == len(asked) and all(one.error is None for one in answers)
    records = tuple(_record(one) for one in answers)
    measured = Measured(records, begin, pipeline.now_s, complete, requests=len(asked))
    facts = {
        "run": run,
        "model": manifest.model.served_name,
        "tool": TOOL,
        "tool_version": dynamoc.__version__,
        "gpus_allocated": gpus,
        "gpus_working": len({(p.node, gpu) for p in manifest.processes for gpu in p.gpus}),
        "idle_workers": tuple(name for name, steps in pipeline.steps().items() if not steps),
        "labels": LABEL,
    }
    return row_of(point, measured, facts)


class _Prompts:
    """Prompts as the built-in client makes them, but of tokens without a text."""

    def __init__(self, point: LoadPoint) -> None:
        self._point = point
        self._unlike = FIRST_UNLIKE
        self._common = min(round(point.isl * point.shared_prefix), point.isl)

    def asked(self, kind: str) -> Iterator[Asked]:
        """Requests without end."""
        point = self._point
        lengths, dice = self._dice(f"{point.id}/{kind}/osl"), self._dice(f"{point.id}/{kind}")
        arrivals = self._dice(f"{point.id}/arrivals")
        at_s = 0.0
        while True:
            isl = drawn(dice, point.isl, point.isl_stddev)
            group = dice.randrange(point.prefixes)
            at_s += arrivals.expovariate(point.rate) if point.rate is not None else 0.0
            prefix = range(group * self._common, (group + 1) * self._common)[:isl]
            yield Asked([*prefix, *self._fresh(isl - len(prefix))], drawn(lengths, point.osl, point.osl_stddev), at_s)

    def of_trace(self) -> Iterator[Asked]:
        """The requests of the point's trace."""
        trace = self._point.trace
        assert trace is not None
        first: float | None = None
        for line in read_trace(self._point, trace):
            first = line.timestamp if first is None else first
            at_s = (line.timestamp - first) / MILLI / trace.speedup
            yield Asked(self._of_blocks(line, trace.block_tokens), line.output_length, at_s)

    def _of_blocks(self, line: TraceLine, block_tokens: int) -> list[int]:
        """Equal hashes are equal tokens; a line without is like no other."""
        if not line.hash_ids:
            return list(self._fresh(line.input_length))
        tokens = [
            (TOKENS // 2 + hash_ * block_tokens + number) % TOKENS
            for hash_ in line.hash_ids
            for number in range(block_tokens)
        ]
        return tokens[: line.input_length]

    def _fresh(self, count: int) -> range:
        self._unlike += count
        return range(self._unlike - count, self._unlike)

    def _dice(self, use: str) -> random.Random:
        return random.Random(f"{self._point.seed}/{use}")  # noqa: S311  # not a secret


def _wire(plan: Plan) -> Wire:
    """Of the first edge that moves KV; nothing moves where there is none."""
    for (source, _), transport in plan.transports.items():
        options = plan.graph.component(source).worker
        assert options is not None
        geometry = plan.graph.model.geometry
        block_bytes = kv_block_bytes(geometry, options) if geometry is not None else 0
        ranks = options.parallel.gpus if dialect(options.engine).capabilities.divides_model else 1
        return Wire(block_bytes, BYTES_PER_S[transport] * ranks, LATENCY_S)
    return Wire()


def _record(one: Answered) -> RequestRecord:
    assert one.ended_s is not None
    times = tuple(round((at - one.sent_s) * MILLI, 3) for at in one.token_s)
    return RequestRecord(
        index=one.index,
        started=round(one.sent_s, 6),
        e2e_ms=times[-1] if times and one.error is None else round((one.ended_s - one.sent_s) * MILLI, 3),
        input_tokens=len(one.asked.tokens),
        output_tokens=len(times),
        ttft_ms=times[0] if times else None,
        token_ms=times,
        error=one.error,
    )
