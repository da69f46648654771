"""What is asked of every deployment of one model, and the deployments that it is asked of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pipelines import Pipeline, streams

HEAD = """\
dynamoc: 1
name: same-text
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
"""
DEFAULTS = """\
defaults: {{device: cpu, dtype: float32, context_length: 2048, block_size: {size}, kv_blocks: {blocks},
           max_batched_tokens: {step}}}
"""
AGGREGATED = """\
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router}
  worker: {role: aggregated}
edges: [frontend -> router -> worker]
"""
ROOMY = DEFAULTS.format(size=16, blocks=512, step=2048)
PROMPTS = [f"Tell me about the number {n}. " + "It has many properties. " * n for n in range(1, 13)]


def texts(pipeline: Pipeline, prompts: Sequence[str] = PROMPTS) -> list[str]:
    bodies = [
        {
            "model": "SmolLM2-135M-Instruct",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 24,
            "temperature": 0,
            "ignore_eos": True,
        }
        for prompt in prompts
    ]
    answers = asyncio.run(streams(pipeline.url, bodies))

    assert not [answer.error for answer in answers if answer.error]

    return [answer.text for answer in answers]
