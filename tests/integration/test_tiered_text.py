"""KV tiers change where a prompt's KV comes from, never a word of the answer; and they outlive a killed worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_text import DEFAULTS, HEAD, texts
from pipelines import Pipeline, serving

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(900)]

BLOCKS = 32
CRAMPED = DEFAULTS.format(size=16, blocks=BLOCKS, step=512)
"""Room for a fraction of the prompts: the second time they are asked, most of them have left the device."""
TIERED = """\
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  worker: {{role: aggregated}}
  cache: {{role: cache, tiers: {{{tiers}}}, admission: all}}
edges: [frontend -> router -> worker -> cache]
"""
TIERS = {
    "G2": "host: 256 MiB",
    "G3": "disk: {{path: {folder}/disk, size: 512 MiB}}",
    "G4": "object: {{url: file://{folder}/objects}}",
}


def spec(tiers: str, folder: Path) -> str:
    named = ", ".join(TIERS[tier] for tier in tiers.split("+")).replace("{{", "{").replace("}}", "}")
    return HEAD + CRAMPED + TIERED.format(tiers=named.replace("{folder}", str(folder)))


def hits(pipeline: Pipeline, tier: str) -> float:
    return pipeline.metric("worker-0", "dynamoc_kv_tier_hit_blocks_total", tier=tier)


@pytest.mark.parametrize("tiers", ["G2", "G3", "G2+G4"])
def test_the_same_text_with_tiers(tiers: str, expected: list[str], tmp_path: Path) -> None:
    with serving(spec(tiers, tmp_path), tmp_path) as pipeline:
        assert texts(pipeline) == expected
        assert texts(pipeline) == expected, "the second time, prefixes come from a tier"
        fastest = tiers.split("+", maxsplit=1)[0]

        assert hits(pipeline, fastest) > 0
        assert pipeline.metric("worker-0", "dynamoc_kv_tier_corrupt_blocks_total") == 0
        assert pipeline.metric("worker-0", "dynamoc_kv_transfer_bytes_total", src=fastest, op="onboard") > 0
        if tiers == "G2+G4":
            assert list((tmp_path / "objects").rglob("0-3")), "pages went on to the object store"


def test_a_killed_worker_finds_its_prefixes_on_disk(expected: list[str], tmp_path: Path) -> None:
    with serving(spec("G3", tmp_path), tmp_path) as pipeline:
        assert texts(pipeline) == expected
        incarnation = pipeline.kill("worker-0")
        pipeline.wait_back("worker-0", incarnation)
        indexed = pipeline.metric("router-0", "dynamoc_router_index_blocks")

        assert indexed > BLOCKS, "the router is told at once what is on disk"
        assert texts(pipeline) == expected
        assert hits(pipeline, "G3") > 0
