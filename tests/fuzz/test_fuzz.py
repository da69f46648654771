"""A spec is never met with a traceback. The long run is `make fuzz`."""

from __future__ import annotations

import random

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


def test_every_seed_at_every_site() -> None:
    stages = {meet(seed, site, MODELS).stage for seed in SEEDS for site in SITES}

    assert stages == {"source", "wrong", "wrong cluster", "cluster", "compiled"}
