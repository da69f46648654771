"""On two GPUs joined by NVLink: prefill on one, decode on the other, by any transport, give the text of one alone."""

from __future__ import annotations

import asyncio
import importlib.util
import random
from pathlib import Path

import pytest
from pipelines import Pipeline, serving, streams
from word_model import WORDS, write_word_model

from dynamoc.runtime.kv.cuda.device import DeviceError, require_devices

GPUS = 2
NIXL = ("nixl_cu13", "nixl_cu12")
SPEC = """\
dynamoc: 1
name: same-text-cuda
model: {{ref: random, path: {model}}}
defaults: {{device: cuda, dtype: float32, context_length: 1024, kv_blocks: {blocks}, max_batched_tokens: 1024}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
"""
AGGREGATED = """\
  worker: {role: aggregated}
edges: [frontend -> router -> worker]
"""
DISAGGREGATED = """\
  prefill: {role: prefill}
  decode: {role: decode}
edges: [frontend -> router -> prefill, {from: prefill, to: decode, transport: TRANSPORT}]
"""
TIERED = """\
  prefill: {role: prefill}
  decode: {role: decode}
  cache: {role: cache, tiers: {host: 1 GiB}, admission: all}
edges: [frontend -> router -> prefill, {from: prefill, to: decode, transport: nvlink}, decode -> cache]
"""
ROOM, CRAMPED = 512, 96
"""Blocks for all prompts, and for a fraction of them: the others are in a tier the second time."""


def why_not() -> str:
    try:
        seen = require_devices()
    except DeviceError as error:
        return str(error)
    return "" if seen >= GPUS else f"this process sees {seen} GPUs, not {GPUS}"


def missing(transport: str) -> str:
    installed = transport != "nixl" or any(importlib.util.find_spec(name) for name in NIXL)
    return "" if installed else "NIXL is not installed"


pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "there are GPUs"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_word_model(folder)
    return folder


def texts(pipeline: Pipeline, share: float = 1.0) -> list[str]:
    """Answers to prompts, or to such a share of each from its beginning."""
    words = random.Random(3)
    prompts = [words.choices(WORDS, k=40 * n) for n in range(1, 13)]
    bodies = [
        {
            "model": "random",
            "messages": [{"role": "user", "content": " ".join(prompt[: round(share * len(prompt))])}],
            "max_tokens": 40,
            "temperature": 0,
            "ignore_eos": True,
        }
        for prompt in prompts
    ]
    answers = asyncio.run(streams(pipeline.url, bodies))
    assert not [answer.error for answer in answers if answer.error]
    assert all(answer.text for answer in answers)
    return [answer.text for answer in answers]


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one GPU says."""
    with serving(SPEC.format(model=model, blocks=ROOM) + AGGREGATED, tmp_path_factory.mktemp("aggregated")) as pipeline:
        return texts(pipeline)


@pytest.mark.parametrize("transport", ["nvlink", "nixl"])
def test_prefill_on_one_gpu_and_decode_on_another_give_the_same_text(
    model: Path, expected: list[str], tmp_path: Path, transport: str
) -> None:
    if reason := missing(transport):
        pytest.skip(reason)
    spec = SPEC.format(model=model, blocks=ROOM) + DISAGGREGATED.replace("TRANSPORT", transport)
    with serving(spec, tmp_path) as pipeline:
        assert texts(pipeline) == expected
        assert texts(pipeline) == expected, "the second time, prefixes are cached"

        moved = pipeline.metric("prefill-0", "dynamoc_kv_transfer_blocks_total", transport=transport)
        assert moved > 0
        assert pipeline.metric("decode-0", "dynamoc_kv_received_blocks_total", transport=transport) == moved
        assert pipeline.metric("decode-0", "dynamoc_kv_checksum_failures_total") == 0
        assert pipeline.metric("decode-0", "dynamoc_kv_local_prefills_total", reason="lost") == 0


def test_host_memory_and_another_gpu_fill_one_prompt(model: Path, expected: list[str], tmp_path: Path) -> None:
    with serving(SPEC.format(model=model, blocks=CRAMPED) + TIERED, tmp_path) as pipeline:

        def metric(name: str, **labels: str) -> float:
            return pipeline.metric("decode-0", f"dynamoc_kv_{name}", **labels)

        texts(pipeline, 0.6)
        loaded, received = metric("tier_hit_blocks_total", tier="G2"), metric("received_blocks_total")

        assert texts(pipeline) == expected
        assert metric("tier_hit_blocks_total", tier="G2") > loaded
        assert metric("received_blocks_total") > received
        assert metric("tier_exposed_seconds_count") > 0, "some prompts were filled from both sides"
        assert metric("asked_again_total") == metric("checksum_failures_total") == 0
