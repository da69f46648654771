"""A decode worker's disk holds the beginning of every prompt, a prefill worker writes the rest: not a word changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_text import DEFAULTS, HEAD, PROMPTS, texts
from pipelines import serving

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(900)]

CRAMPED = DEFAULTS.format(size=8, blocks=40, step=512)
"""Small blocks: beginnings have many. Room for a fraction of the prompts: the others are on disk the second time."""
TIERED_DECODE = """\
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  prefill: {{role: prefill}}
  decode: {{role: decode}}
  cache: {{role: cache, tiers: {{disk: {{path: {folder}/disk, size: 512 MiB}}}}, admission: all}}
edges: [frontend -> router -> prefill, {{from: prefill, to: decode, transport: tcp}}, decode -> cache]
"""
LONG = slice(6, None)
BEGINNINGS = [prompt[: len(prompt) * 2 // 3] for prompt in PROMPTS[LONG]]


def test_the_same_text_when_tiers_and_a_prefill_worker_fill_a_prompt(expected: list[str], tmp_path: Path) -> None:
    with serving(HEAD + CRAMPED + TIERED_DECODE.format(folder=tmp_path), tmp_path) as pipeline:

        def metric(name: str, **labels: str) -> float:
            return pipeline.metric("decode-0", f"dynamoc_kv_{name}", **labels)

        texts(pipeline, BEGINNINGS)
        loaded, received = (metric("tier_hit_blocks_total", tier="G3"), metric("received_blocks_total"))

        assert texts(pipeline, PROMPTS[LONG]) == expected[LONG]
        assert metric("tier_hit_blocks_total", tier="G3") > loaded
        assert metric("received_blocks_total") > received
        assert metric("tier_exposed_seconds_count") > 0, "some prompts were filled from both sides"
        assert metric("asked_again_total") == metric("tier_corrupt_blocks_total") == 0
