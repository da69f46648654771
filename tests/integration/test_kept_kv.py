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
  decode: {role: decode, replicas: 2}
edges: [frontend -> router -> prefill -> decode]
"""
STREAMS = 5
RECOVERED = "dynamoc_kv_recovered_blocks_total"


def bodies() -> list[dict[str, Any]]:
    return [
        {
            "model": "SmolLM2-135M-Instruct",
            "messages": [{"role": "user", "content": f"Tell me story {n} of {n % 3} rivers and a stone. " * 3}],
            "max_tokens": 12,
            "temperature": 0,
            "ignore_eos": True,
        }
        for n in range(STREAMS)
    ]


def texts(pipeline: Pipeline) -> list[str]:
    answers = asyncio.run(streams(pipeline.url, bodies()))

    assert not any(answer.error for answer in answers), answers

    return [answer.text for answer in answers]


async def kill_under_load(pipeline: Pipeline, victim: str) -> tuple[list[Stream], int]:
    """Kill `victim` when half of the streams have their first token; the streams, and the killed incarnation."""
    results = [Stream() for _ in range(STREAMS)]
    load = asyncio.create_task(streams(pipeline.url, bodies(), results))
    while sum(r.first_at is not None for r in results) < STREAMS // 2 and not load.done():
        await asyncio.sleep(0.01)
    incarnation = pipeline.kill(victim)
    await asyncio.wait_for(load, 240)
    return results, incarnation


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="no SmolLM2 folder: run `make model`")
def test_killed_workers_are_back_with_their_cache(tmp_path: Path) -> None:
    with serving(SPEC, tmp_path, ready_s=300) as pipeline:
        expected = texts(pipeline)
        for victim in ("decode-0", "prefill-0"):
            results, incarnation = asyncio.run(kill_under_load(pipeline, victim))
            for result, text in zip(results, expected, strict=True):
                assert result.error is not None or result.text == text
            pipeline.wait_back(victim, after=incarnation, limit_s=200)

            assert pipeline.metric(victim, RECOVERED, outcome="verified") > 0
            assert pipeline.metric(victim, RECOVERED, outcome="wrong") == 0
            assert pipeline.metric(victim, "dynamoc_kv_pool_kept") == 1
            assert pipeline.metric(victim, "dynamoc_worker_cached_tokens_total") == 0, "it has computed nothing yet"
            assert texts(pipeline) == expected
        # Which decode worker is asked is the router's choice; there is one prefill worker.
        assert pipeline.metric("prefill-0", "dynamoc_worker_cached_tokens_total") > 0
        assert pipeline.metric("decode-0", "dynamoc_worker_blocks", state="quarantined") == 0
