"""Workers of a real pipeline killed under load come back to a warm cache, and no stream's text is another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pipelines import SMOLLM2, Pipeline, Stream, serving, streams

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]

SPEC = """\
dynamoc: 1
name: kept-kv
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
defaults: {device: cpu, dtype: float32, context_length: 512, kv_blocks: 128, block_size: 16, args: {kv: kept}}
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router, policy: kv}
  prefill: {role: prefill}
  decode: {role: decode}
edges: [frontend -> router -> prefill -> decode]
"""
STREAMS = 5
BLOCK_SIZE = 16
WORKERS = ("decode-0", "prefill-0")
RECOVERED = "dynamoc_kv_recovered_blocks_total"


def bodies() -> list[dict[str, Any]]:
    return [
        {
            "model": "SmolLM2-135M-Instruct",
            "messages": [{"role": "user", "content": f"Tell me story {n} of {n % 3} rivers and a stone. " * 3}],
            "max_tokens": 12,
            "temperature": 0,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        for n in range(STREAMS)
    ]


def answers(pipeline: Pipeline) -> list[Stream]:
    found = asyncio.run(streams(pipeline.url, bodies()))

    assert not any(answer.error for answer in found), found

    return found


async def kill_under_load(pipeline: Pipeline) -> tuple[list[Stream], dict[str, int]]:
    """Kill all workers when half of the streams have their first token; the streams, and the killed incarnations."""
    results = [Stream() for _ in range(STREAMS)]
    load = asyncio.create_task(streams(pipeline.url, bodies(), results))
    while sum(r.first_at is not None for r in results) < STREAMS // 2 and not load.done():
        await asyncio.sleep(0.01)
    killed = {victim: pipeline.kill(victim) for victim in WORKERS}
    await asyncio.wait_for(load, 240)
    return results, killed


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="no SmolLM2 folder: run `make model`")
def test_killed_workers_are_back_with_their_cache(tmp_path: Path) -> None:
    with serving(SPEC, tmp_path, ready_s=300) as pipeline:
        expected = [answer.text for answer in answers(pipeline)]
        cut, killed = asyncio.run(kill_under_load(pipeline))
        for stream, text in zip(cut, expected, strict=True):
            assert stream.error is not None or stream.text == text
        for victim, incarnation in killed.items():
            pipeline.wait_back(victim, after=incarnation, limit_s=200)
            assert pipeline.metric(victim, RECOVERED, outcome="wrong") == 0
            assert pipeline.metric(victim, "dynamoc_kv_pool_kept") == 1
        assert pipeline.metric("prefill-0", RECOVERED, outcome="verified") > 0
        again = answers(pipeline)

        assert [answer.text for answer in again] == expected
        for answer in again:
            prompt = answer.usage["prompt_tokens"]
            cached = answer.usage["prompt_tokens_details"]["cached_tokens"]
            assert cached == (prompt - 1) // BLOCK_SIZE * BLOCK_SIZE, "only what was recovered can be cached"
        assert sum(pipeline.metric(victim, "dynamoc_worker_blocks", state="quarantined") for victim in WORKERS) == 0
