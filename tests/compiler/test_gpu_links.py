"""KV between GPUs: over NVLink where it joins them, by nixl elsewhere, and never by another way than was declared."""

from __future__ import annotations

from typing import Any

import pytest
from proving import cards

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.pipeline import Proof, prove
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source

GIB = 2**30


def nodes(count: int, gpus: int, kind: str) -> Cluster:
    return Cluster("demo", tuple(Node(f"n{i}", 64, 512 * GIB, gpus, kind, 44 * GIB) for i in range(count)))


def proof(cluster: Cluster, transport: str | None = None) -> Proof:
    moves: Any = {"from": "prefill", "to": "decode"} | ({"transport": transport} if transport else {})
    spec = {
        "dynamoc": 1,
        "name": "demo",
        "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "defaults": {"engine": "native", "device": "cuda", "context_length": 2048, "kv_memory": "128 MiB"},
        "components": {
            "frontend": {"role": "frontend"},
            "router": {"role": "router"},
            "prefill": {"role": "prefill"},
            "decode": {"role": "decode"},
        },
        "edges": ["frontend -> router -> prefill", moves],
    }
    return prove(read_source(to_yaml(spec), "spec.yaml"), cluster, cards())


@pytest.mark.parametrize(
    ("cluster", "way"),
    [(nodes(1, 2, "H200"), "nvlink"), (nodes(2, 1, "H200"), "nixl"), (nodes(1, 2, "L40S"), "nixl")],
    ids=["NVLink", "two nodes", "no NVLink"],
)
def test_untold_it_is_the_first_way_that_there_is(cluster: Cluster, way: str) -> None:
    found = proof(cluster)

    assert not found.diagnostics
    assert found.plan is not None
    assert found.plan.transports == {("prefill", "decode"): way}
    assert {p.transport for p in found.plan.processes if p.component.name in ("prefill", "decode")} == {way}


@pytest.mark.parametrize("cluster", [nodes(2, 1, "H200"), nodes(1, 2, "L40S")], ids=["two nodes", "no NVLink"])
def test_nvlink_that_is_not_there_is_refused_for_nixl(cluster: Cluster) -> None:
    (said,) = proof(cluster, "nvlink").diagnostics

    assert said.code == "D326"
    assert [fix.help for fix in said.fixes] == ["set `edges[1].transport` to `nixl`"]
    assert not proof(cluster, "nixl").diagnostics
