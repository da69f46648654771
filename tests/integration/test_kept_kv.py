"""All workers of a real pipeline killed under load come back to a warm cache, and no stream's text is another."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from pipelines import Pipeline, Stream, serving, streams
from word_model import WORDS, write_word_model

from dynamoc.runtime.kv.cuda.device import DeviceError, require_devices

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BLOCK_SIZE = 16
SPEC = """\
dynamoc: 1
name: kept-kv
model: {{ref: words, path: {model}}}
defaults: {{device: {device}, dtype: float32, context_length: 512, kv_blocks: 256, block_size: 16, args: {{kv: kept}}}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router, policy: kv}}
  prefill: {{role: prefill}}
  decode: {{role: decode}}
edges: [frontend -> router -> prefill, {{from: prefill, to: decode, transport: {transport}}}]
"""
STREAMS = 6
WORKERS = ("decode-0", "prefill-0")
RECOVERED = "dynamoc_kv_recovered_blocks_total"


def gpus() -> int:
    try:
        return require_devices()
    except DeviceError:
        return 0


def bodies() -> list[dict[str, Any]]:
    words = random.Random(3)
    return [
        {
            "model": "words",
            "messages": [{"role": "user", "content": " ".join(words.choices(WORDS, k=40 + 30 * number))}],
            "max_tokens": 60,
            "temperature": 0,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        for number in range(STREAMS)
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


@pytest.mark.parametrize(
    ("device", "transport"),
    [
        ("cpu", "shm"),
        pytest.param("cuda", "nvlink", marks=pytest.mark.skipif(gpus() < 2, reason="no two GPUs")),
    ],
)
def test_killed_workers_are_back_with_their_cache(tmp_path: Path, device: str, transport: str) -> None:
    model = tmp_path / "words"
    model.mkdir()
    write_word_model(model)
    with serving(SPEC.format(model=model, device=device, transport=transport), tmp_path, ready_s=300) as pipeline:
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
