"""Kill real processes under load: every stream ends right or with a clear error, soon; and the victim comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pipelines import SMOLLM2, Pipeline, Stream, serving, streams

pytestmark = [pytest.mark.integration, pytest.mark.model]

STREAMS = 32
DEADLINE_S = 5.0

SPEC = """\
dynamoc: 1
name: faults
model: {{ref: HuggingFaceTB/SmolLM2-135M-Instruct}}
defaults: {{device: cpu, dtype: float32, block_size: 16, {defaults}}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router, policy: kv}}
  prefill: {{role: prefill, replicas: 2}}
  decode: {{role: decode, replicas: 2}}
edges: [frontend -> router -> prefill -> decode]
"""
ENGINES = {
    "mocker": (SPEC.format(defaults="engine: mocker, args: {decode_step_ms: 20}"), 120),
    "native": (SPEC.format(defaults="engine: native, kv_memory: 512 MiB"), 16),
}


def bodies(tokens: int, topic: str = "a river and a stone") -> list[dict[str, Any]]:
    return [
        {
            "model": "SmolLM2-135M-Instruct",
            "messages": [{"role": "user", "content": f"Tell me story number {number} about {topic}."}],
            "max_tokens": tokens,
            "temperature": 0,
            "seed": 1,
            "ignore_eos": True,
        }
        for number in range(STREAMS)
    ]


async def kill_under_load(pipeline: Pipeline, victim: str, tokens: int) -> tuple[list[Stream], float, int]:
    """Kill `victim` when half of the streams have their first token; the streams, when, and the killed incarnation."""
    results = [Stream() for _ in range(STREAMS)]
    load = asyncio.create_task(streams(pipeline.url, bodies(tokens), results))
    while sum(r.first_at is not None for r in results) < STREAMS // 2 and not load.done():
        await asyncio.sleep(0.01)
    killed_at = time.monotonic()
    incarnation = pipeline.kill(victim)
    await asyncio.wait_for(load, 240)
    return results, killed_at, incarnation


def verdict(result: Stream, expected: str, killed_at: float) -> str:
    if result.error is None:
        return "as without the fault" if result.text == expected else "WRONG TEXT"
    if result.error.startswith("transport"):
        return "CUT WITHOUT A WORD"
    return "clear error" if result.last_at - killed_at <= DEADLINE_S else "LATE ERROR"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", list(ENGINES))
def test_killing_workers_and_router_under_load(
    engine: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    spec, tokens = ENGINES[engine]
    with serving(spec, tmp_path) as pipeline:
        expected = [r.text for r in asyncio.run(streams(pipeline.url, bodies(tokens)))]
        assert all(expected)

        for victim in ("prefill-0", "decode-0", "router-0"):
            results, killed_at, incarnation = asyncio.run(kill_under_load(pipeline, victim, tokens))
            counts = Counter(verdict(r, e, killed_at) for r, e in zip(results, expected, strict=True))
            print(f"{engine}: killed {victim}: {dict(counts)}")
            record_property(f"{engine}.{victim}", dict(counts))

            assert set(counts) <= {"as without the fault", "clear error"}, [r for r in results if r.error]
            pipeline.wait_back(victim, incarnation)
            assert_used_again(pipeline, victim)


def assert_used_again(pipeline: Pipeline, victim: str) -> None:
    """Requests reach the process in its new life."""
    metric = "dynamoc_router_requests_total" if victim == "router-0" else "dynamoc_worker_steps_total"
    for attempt in range(3):
        fresh = bodies(4, f"the house with {attempt} rooms, told by who never was there")[:8]
        assert all(r.error is None for r in asyncio.run(streams(pipeline.url, fresh)))
        if pipeline.metric(victim, metric) > 0:
            return
    raise AssertionError(f"{victim} is back but not used")
