"""Cluster files."""

from __future__ import annotations

from pathlib import Path

import pytest
from proving import ROOT

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.source import read_source


def cluster_of(text: str) -> Cluster:
    return read_cluster(read_source(text, "site.yaml"))


def codes_of(text: str) -> list[str]:
    with pytest.raises(CompileError) as caught:
        cluster_of(text)
    return [d.code for d in caught.value.diagnostics]


def test_a_count_makes_a_series() -> None:
    cluster = cluster_of(
        "name: site\nport_base: 30000\nmodel_root: /m\nnodes:\n"
        "  - {name: gpu, count: 2, cpus: 64, memory: 1 TiB, gpus: {count: 8, kind: H100, memory: 80 GiB}}\n"
        "  - {name: head, cpus: 8, memory: 16 GiB}\n"
    )

    gpu = ("gpu-0", "gpu-1")
    assert cluster.nodes[:2] == tuple(Node(name, 64, 2**40, 8, "H100", 80 * 2**30) for name in gpu)
    assert cluster.nodes[2] == Node("head", 8, 2**34)
    assert (cluster.port_base, cluster.model_root, cluster.provenance) == (30000, "/m", "file site.yaml")


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("name: a\n", ["D111"]),
        ("name: a\nnodes: []\n", ["D113"]),
        ("name: a\nnodes: [{name: n, cpus: 0, memory: 1 GiB}]\n", ["D113"]),
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1}]\n", ["D114"]),
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1 GiB, gpu: {}}]\n", ["D110"]),
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1 GiB, gpus: {count: 1, kind: H}}]\n", ["D111"]),
        ("name: a\nport_base: 80\nnodes: [{name: n, cpus: 1, memory: 1 GiB}]\n", ["D113"]),
        ("name: A\nnodes: [5]\n", ["D113", "D112"]),
        (
            "name: a\nnodes: [{name: n-1, cpus: 1, memory: 1 GiB}, {name: n, count: 3, cpus: 1, memory: 1 GiB}]\n",
            ["D120"],
        ),
    ],
)
def test_mistakes(text: str, codes: list[str]) -> None:
    assert codes_of(text) == codes


def test_the_largest_series_is_bounded() -> None:
    assert codes_of("name: a\nnodes: [{name: n, count: 100000, cpus: 1, memory: 1 GiB}]\n") == ["D113"]


@pytest.mark.parametrize("path", sorted((ROOT / "specs/clusters").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_clusters(path: Path) -> None:
    cluster = cluster_of(path.read_text())

    assert cluster.nodes
    assert cluster.name == path.stem
