"""One model gives one text, however it is deployed: aggregated or not, over shm or tcp, with cached prefixes or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_text import AGGREGATED, DEFAULTS, HEAD, ROOMY, texts
from pipelines import serving

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(900)]

DISAGGREGATED = """\
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  prefill: {{role: prefill}}
  decode: {{role: decode, replicas: 2}}
edges: [frontend -> router -> prefill, {{from: prefill, to: decode, transport: {transport}}}]
"""
CRAMPED = DEFAULTS.format(size=8, blocks=48, step=48)
"""Chunks of 48 tokens, and blocks for a third of the load: prompts are chunked; every sequence needs three blocks more
while it runs, so some are preempted."""

DEPLOYMENTS = {
    "cramped": HEAD + CRAMPED + AGGREGATED,
    "shm": HEAD + ROOMY + DISAGGREGATED.format(transport="shm"),
    "tcp": HEAD + ROOMY + DISAGGREGATED.format(transport="tcp"),
}


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
