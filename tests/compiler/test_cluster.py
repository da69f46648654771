"""Cluster files."""

from __future__ import annotations

from pathlib import Path

import pytest
from proving import ROOT

from dynamoc.compiler.cluster import Cluster, Nics, Node, Partition, Storage
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


def test_speeds_of_disks_and_of_what_nodes_share() -> None:
    cluster = cluster_of(
        "name: site\nnodes:\n"
        "  - {name: a, cpus: 8, memory: 1 GiB, cpu_tflops: 2.5,"
        " disk: {size: 1 TiB, path: /scratch, bandwidth: 12 GB}}\n"
        "  - {name: b, cpus: 8, memory: 1 GiB, disk: 2 TiB}\n"
        "storage: {path: /models, bandwidth: 5 GB, total: 100 GB}\nobject_store: {bandwidth: 2 GB}\n"
    )
    a, b = cluster.nodes

    assert (a.disk_bytes, a.disk_path, a.disk_bytes_per_s, a.cpu_flops) == (2**40, "/scratch", 12 * 10**9, 2.5e12)
    assert (b.disk_bytes, b.disk_path, b.disk_bytes_per_s, b.cpu_flops) == (2**41, None, 0, 0.0)
    assert (cluster.storage, cluster.objects_bytes_per_s) == (Storage("/models", 5 * 10**9, 10**11), 2 * 10**9)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1 GiB, disk: {path: /scratch}}]\n", ["D111"]),
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1 GiB, disk: {size: 1 TiB, speed: 1 GB}}]\n", ["D110"]),
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1 GiB, disk: 7}]\n", ["D114"]),
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1 GiB}]\nstorage: {total: 1 GB}\n", ["D111"]),
        ("name: a\nnodes: [{name: n, cpus: 1, memory: 1 GiB}]\nobject_store: {bandwith: 1 GB}\n", ["D110"]),
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


def test_the_memory_of_a_known_gpu_need_not_be_written() -> None:
    node = "{name: n, cpus: 8, memory: 1 TiB, gpus: {count: 4, kind: gb200}}"

    cluster = cluster_of(f"name: a\nnodes: [{node}]\n")

    assert cluster.nodes[0].gpu_memory_bytes == 189471 * 2**20
    assert cluster.domain_nodes(cluster.nodes[0]) == 18
    assert codes_of(f"name: a\nnodes: [{node.replace('gb200', 'banana')}]\n") == ["D111"]


SITE = """\
name: site
nodes:
  - name: tray
    count: 2
    cpus: 144
    memory: 960 GiB
    gpus: {count: 4, kind: GB200}
    hosts: [tray-1.site, tray-2.site]
    disk: 7 TiB
    shm: 400 GiB
    nics: {count: 4, kind: ConnectX-7, bandwidth: 50 GB}
nvlink_domain_nodes: 9
partitions:
  - {name: batch, max_time: 1-12:00:00, max_nodes: 18}
  - {name: debug, max_time: 30 min}
site:
  account: team
  container: pyxis
  mounts: ["/models:/models:ro"]
  directives: {exclusive: true, segment: 16}
"""


def test_a_site_says_more_than_nodes() -> None:
    cluster = cluster_of(SITE)

    first, second = cluster.nodes
    assert (first.host, second.host) == ("tray-1.site", "tray-2.site")
    assert (first.disk_bytes, first.shm_bytes) == (7 * 2**40, 400 * 2**30)
    assert first.nics == Nics(4, "ConnectX-7", 50 * 10**9)
    assert cluster.domain_nodes(first) == 9
    assert cluster.partitions == (Partition("batch", 129600.0, 18), Partition("debug", 1800.0))
    assert cluster.site == {
        "account": "team",
        "container": "pyxis",
        "mounts": ["/models:/models:ro"],
        "directives": {"exclusive": True, "segment": 16},
    }


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (("tray-1.site, ", ""), ["D113"]),
        (("kind: ConnectX-7, ", ""), ["D111"]),
        (("max_nodes: 18", "max_nodes: many"), ["D112"]),
        (("30 min", "30"), ["D114"]),
        (("container: pyxis", "container: lxc"), ["D113"]),
        (("account:", "acount:"), ["D110"]),
        (("1-12:00:00", "1-12"), ["D114"]),
    ],
)
def test_mistakes_of_a_site(change: tuple[str, str], codes: list[str]) -> None:
    assert codes_of(SITE.replace(*change)) == codes


def test_the_digest_names_facts_not_texts() -> None:
    cluster = cluster_of(SITE)

    assert cluster.digest == cluster_of("# the same\n" + SITE).digest
    assert cluster.digest != cluster_of(SITE.replace("960 GiB", "961 GiB")).digest
    assert cluster.digest != cluster_of(SITE.replace("exclusive: true", "exclusive: false")).digest
    assert len(cluster.digest) == 32
