"""A spec is never met with a traceback. The long run is `make fuzz`."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from meeting import cards, meet, seeds, sites
from mutators import mutated

from dynamoc.compiler.cluster import Cluster

SEEDS, SITES, MODELS = seeds(), sites(), cards()
bounded = settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(parent=bounded, max_examples=500)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"a: &a [*a]")
@example(b"nodes: []")
def test_any_bytes(content: bytes) -> None:
    assert meet(content, SITES[0], MODELS).stage in ("source", "wrong", "wrong cluster")


@bounded
@given(st.integers(0, 2**63), st.sampled_from(SEEDS), st.sampled_from(SEEDS), st.sampled_from(SITES))
def test_what_is_left_of_a_spec(number: int, seed: bytes, other: bytes, site: Cluster) -> None:
    content = mutated(seed, other, random.Random(number))

    meet(content, site, MODELS)


@pytest.mark.parametrize(
    "worker",
    [
        pytest.param("args: {tp: 1000000000}, replicas: 3", id="a billion ranks"),
        pytest.param("args: {tp: 8}, replicas: 10000", id="ten thousand workers"),
        pytest.param("args: {tp: 4}, gpus: 4, nodes_per_worker: 5", id="nodes without GPUs"),
        pytest.param(
            """args: {tp: 4, dp: 8, enable-expert-parallel: true, enable-eplb: true,
            eplb-config: {num_redundant_experts: "3"}}, gpus: 64""",
            id="numbers of JSON as text",
        ),
    ],
)
def test_what_once_raised_or_never_ended(worker: str) -> None:
    text = f"""
dynamoc: 1
name: demo
model: {{ref: deepseek-ai/DeepSeek-R1}}
defaults: {{engine: vllm}}
components: {{f: {{role: frontend}}, r: {{role: router}}, w: {{role: aggregated, {worker}}}}}
edges: [f -> r -> w]
"""
    assert meet(text.encode(), next(site for site in SITES if len(site.nodes) == 5), MODELS).stage == "wrong"


def test_every_seed_at_every_site() -> None:
    stages = {meet(seed, site, MODELS).stage for seed in SEEDS for site in SITES}

    assert stages == {"source", "wrong", "wrong cluster", "cluster", "compiled"}
