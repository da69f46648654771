"""Two workers share one copy of their weights, move KV by NIXL, and one that is killed is back without reading."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest
from memory_owners import owners, wait_for_end
from pipelines import SMOLLM2, Pipeline, serving, streams

from dynamoc.runtime.transports.nixl_agent import PACKAGES

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]

SPEC = """\
dynamoc: 1
name: shared-weights
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
defaults: {device: cpu, dtype: float32, context_length: 1024, kv_blocks: 256, args: {weights: shared}}
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router}
  prefill: {role: prefill}
  decode: {role: decode}
edges: [frontend -> router -> prefill, {from: prefill, to: decode, transport: nixl}]
"""
BODY = {
    "model": "SmolLM2-135M-Instruct",
    "messages": [{"role": "user", "content": "Name the planets. " * 12}],
    "max_tokens": 24,
    "temperature": 0,
    "ignore_eos": True,
}


def text(pipeline: Pipeline) -> str:
    (answer,) = asyncio.run(streams(pipeline.url, [BODY]))

    assert not answer.error

    return str(answer.text)


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="no SmolLM2 folder: run `make model`")
@pytest.mark.skipif(not any(map(importlib.util.find_spec, PACKAGES)), reason="NIXL is not installed")
def test_a_killed_worker_is_back_on_the_weights_that_are_there(tmp_path: Path) -> None:
    with serving(SPEC, tmp_path, ready_s=300) as pipeline:
        before = text(pipeline)
        assert pipeline.metric("decode-0", "dynamoc_kv_received_blocks_total", transport="nixl") > 0
        assert len(owners(pipeline.run_dir)) == 1
        owner = owners(pipeline.run_dir)

        pipeline.wait_back("decode-0", after=pipeline.kill("decode-0"), limit_s=200)

        log = (pipeline.run_dir / "logs" / "decode-0-1.log").read_text()
        assert "weights are mapped, not read" in log
        assert owners(pipeline.run_dir) == owner
        assert text(pipeline) == before
        run_dir = pipeline.run_dir
    wait_for_end(run_dir)
