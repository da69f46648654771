"""One model gives one text, however it is deployed: aggregated or not, over shm or tcp, with cached prefixes or not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pipelines import SMOLLM2, Pipeline, serving, streams

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(300)]

HEAD = """\
dynamoc: 1
name: same-text
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
"""
DEFAULTS = (
    "defaults: {{device: cpu, dtype: float32, context_length: 2048, kv_blocks: {blocks}, max_batched_tokens: {step}}}\n"
)
AGGREGATED = """\
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router}
  worker: {role: aggregated}
edges: [frontend -> router -> worker]
"""
DISAGGREGATED = """\
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  prefill: {{role: prefill}}
  decode: {{role: decode, replicas: 2}}
edges: [frontend -> router -> prefill, {{from: prefill, to: decode, transport: {transport}}}]
"""
ROOMY = DEFAULTS.format(blocks=512, step=2048)
CRAMPED = DEFAULTS.format(blocks=40, step=48)
"""Chunks of 48 tokens, and blocks for a fraction of the load: prompts are chunked, sequences preempted."""

DEPLOYMENTS = {
    "cramped": HEAD + CRAMPED + AGGREGATED,
    "shm": HEAD + ROOMY + DISAGGREGATED.format(transport="shm"),
    "tcp": HEAD + ROOMY + DISAGGREGATED.format(transport="tcp"),
}
PROMPTS = [f"Tell me about the number {n}. " + "It has many properties. " * n * 2 for n in range(1, 13)]


def texts(pipeline: Pipeline) -> list[str]:
    bodies = [
        {
            "model": "SmolLM2-135M-Instruct",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 40,
            "temperature": 0,
            "ignore_eos": True,
        }
        for prompt in PROMPTS
    ]
    answers = asyncio.run(streams(pipeline.url, bodies))

    assert not [answer.error for answer in answers if answer.error]

    return [answer.text for answer in answers]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with serving(HEAD + ROOMY + AGGREGATED, tmp_path_factory.mktemp("aggregated")) as pipeline:
        return texts(pipeline)


@pytest.mark.parametrize("deployment", list(DEPLOYMENTS))
def test_every_deployment_gives_the_same_text(deployment: str, expected: list[str], tmp_path: Path) -> None:
    with serving(DEPLOYMENTS[deployment], tmp_path) as pipeline:
        assert texts(pipeline) == expected
        assert texts(pipeline) == expected, "the second time, prefixes are cached"

        if deployment == "cramped":
            assert pipeline.metric("worker-0", "dynamoc_worker_preemptions_total") > 0
        else:
            received = [
                pipeline.metric(f"decode-{k}", "dynamoc_kv_received_blocks_total", transport=deployment)
                for k in range(2)
            ]
            assert sum(received) > 0
