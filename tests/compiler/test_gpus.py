"""The table of GPUs."""

from __future__ import annotations

import pytest
from proving import ROOT

from dynamoc.compiler.gpus import Gpu, GpuTableError, find_gpu, known_gpus, read_gpus
from dynamoc.compiler.source import read_source

TABLE = read_source((ROOT / "specs/gpus.yaml").read_text(), "gpus.yaml").data
GB = 10**9


@pytest.mark.parametrize("kind", list(TABLE["gpus"]))
def test_every_value_has_a_source(kind: str) -> None:
    facts = TABLE["gpus"][kind]

    assert facts["names"]
    assert all(pair[1] in TABLE["sources"] for name, pair in facts.items() if name != "names")


def test_every_source_is_used() -> None:
    used = {pair[1] for facts in TABLE["gpus"].values() for name, pair in facts.items() if name != "names"}

    assert used == set(TABLE["sources"])


@pytest.mark.parametrize("gpu", list(known_gpus().values()), ids=lambda gpu: gpu.kind)
def test_values_are_those_of_a_gpu(gpu: Gpu) -> None:
    assert 20 * GB < gpu.memory < 400 * GB
    assert 250 * GB < gpu.bandwidth < 10_000 * GB
    assert gpu.nvlink_domain in (1, 2, 4, 8, 72)
    assert (gpu.nvlink > 0) == (gpu.nvlink_domain > 1)
    assert gpu.nvlink == 0 or gpu.nvlink > gpu.pcie
    assert gpu.bf16 > 0
    assert gpu.fp8 == 0 or gpu.fp8 == pytest.approx(2 * gpu.bf16, rel=0.02)
    assert gpu.fp4 == 0 or gpu.fp4 >= 1.99 * gpu.fp8
    if gpu.compute_capability is not None:
        major = int(gpu.compute_capability.split(".")[0])
        assert (gpu.fp4 > 0) == (major >= 10)
        assert (gpu.fp8 > 0) == (gpu.compute_capability >= "8.9" or major >= 9)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("h200", "H200"),
        ("H100", "H100-SXM"),
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("a100", "A100-80GB-SXM"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB-SXM"),
        ("gb200", "GB200"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("b300", "B300"),
        ("NVIDIA-L40S", "L40S"),
        ("AMD_Instinct_MI300X", "MI300X"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
    ],
)
def test_names_of_schedulers_drivers_and_people(name: str, kind: str) -> None:
    found = find_gpu(name)

    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("name", [None, "", "banana", "nvidia", "H", "gpu", "H100 H200"])
def test_what_is_no_gpu(name: str | None) -> None:
    assert find_gpu(name) is None


GOOD = "memory: [80 GiB, a], bandwidth: [1 TB, a], pcie: [64 GB, a], nvlink_domain: [1, a]"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (GOOD.replace("memory: [80 GiB, a], ", ""), "X: no memory"),
        (GOOD.replace("80 GiB, a", "80 GiB, b"), "`memory` is a value and a source"),
        (GOOD.replace("[80 GiB, a]", "80 GiB"), "`memory` is a value and a source"),
        (GOOD.replace("80 GiB", "80"), "`memory`: expected a size"),
        (GOOD + ", bf16: [0, a]", "`bf16` is not a positive number"),
        (GOOD + ", color: [red, a]", "unknown color"),
    ],
)
def test_a_table_that_lacks_something(facts: str, message: str) -> None:
    with pytest.raises(GpuTableError, match=message):
        read_gpus(f"sources: {{a: somewhere}}\ngpus:\n  X: {{{facts}}}\n")


def test_a_table_is_sources_and_gpus() -> None:
    with pytest.raises(GpuTableError, match="mappings"):
        read_gpus("gpus: {}\n")
    assert read_gpus(f"sources: {{a: somewhere}}\ngpus:\n  X: {{{GOOD}}}\n")["X"].memory == 80 * 2**30
