"""Verdicts are those of the rules on the written spec; what looks wrong and can run is not refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.importers.recipe import Imported
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.importers.verdict import Judge, Verdict
from dynamoc.compiler.importers.writing import to_text
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.source import read_source

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.yaml"))


def nothing_known(model: Any) -> ModelLibrary:
    del model
    return ModelLibrary()


def imported(text: str) -> list[Imported]:
    return list(read_recipe(text))


def judged(text: str) -> Verdict:
    (found,) = imported(text)
    return Judge(nothing_known).verdict("recipe.yaml", found)


def recipe(resources: str, engine: str, **roles: str) -> str:
    sections = ", ".join(f"{role}: {{{args}}}" for role, args in roles.items())
    return (
        "name: x\nmodel: {path: 'hf:a/b', container: c, precision: fp8}\n"
        f"resources: {{{resources}}}\nbackend: {{type: {engine}, {engine}_config: {{{sections}}}}}\n"
    )


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_written_spec_gets_the_same_verdict(path: Path) -> None:
    for found in imported(path.read_text()):
        verdict = Judge(nothing_known).verdict(path.name, found)
        spec, cluster = (read_source(to_text(part), name) for part, name in ((found.spec, "s"), (found.cluster, "c")))
        proof = prove(spec, read_cluster(cluster), ModelLibrary())

        assert verdict.verdict != "rejected", verdict.reasons
        assert {diagnostic.code for diagnostic in proof.diagnostics} == set(verdict.codes)
        assert proof.unchecked == verdict.unchecked


GB200 = "gpu_type: gb200, gpus_per_node: 4, "
H100 = "gpu_type: h100, gpus_per_node: 8, "


@pytest.mark.parametrize(
    ("text", "needed", "allotted"),
    [
        pytest.param(
            recipe(
                GB200 + "agg_nodes: 12, agg_workers: 1",
                "sglang",
                aggregated="tp-size: 48, dp-size: 48, enable-dp-attention: true",
            ),
            48,
            48,
            id="attention DP is inside tp",
        ),
        pytest.param(
            recipe(
                GB200 + "prefill_nodes: 1, prefill_workers: 1, decode_nodes: 3, decode_workers: 2, gpus_per_decode: 6",
                "trtllm",
                prefill="tensor_parallel_size: 4",
                decode="tensor_parallel_size: 6",
            ),
            16,
            16,
            id="two workers share a node, each spans two",
        ),
        pytest.param(
            recipe(
                H100
                + "prefill_nodes: 1, prefill_workers: 2, gpus_per_prefill: 2, "
                + "decode_nodes: 0, decode_workers: 1, gpus_per_decode: 4",
                "sglang",
                prefill="tp-size: 2",
                decode="tp-size: 4",
            ),
            8,
            8,
            id="decode shares the node of prefill",
        ),
        pytest.param(
            recipe(
                H100 + "agg_nodes: 4, agg_workers: 4",
                "vllm",
                aggregated="data-parallel-size: 32, data-parallel-size-local: 8, data-parallel-hybrid-lb: true",
            ),
            128,
            32,
            id="each server of hybrid DP is told the size of all",
        ),
        pytest.param(
            recipe(
                H100 + "agg_nodes: 1, agg_workers: 1",
                "vllm",
                aggregated="tensor-parallel-size: 8, decode-context-parallel-size: 8",
            ),
            8,
            8,
            id="decode context parallelism is inside tp",
        ),
    ],
)
def test_what_looks_too_large_is_not(text: str, needed: int, allotted: int) -> None:
    verdict = judged(text)

    assert (verdict.verdict, verdict.codes) == ("accepted", ()), verdict.reasons
    assert (verdict.gpus_needed, verdict.gpus_allocated) == (needed, allotted)


@pytest.mark.parametrize(
    ("engine", "args", "arithmetic"),
    [
        ("sglang", "tp-size: 8, dp-size: 2", "tp x pp x dp = 8 x 1 x 2 = 16 > 8"),
        (
            "vllm",
            "tensor-parallel-size: 8, prefill-context-parallel-size: 2",
            "tp x pp x dp x cp = 8 x 1 x 1 x 2 = 16 > 8",
        ),
        ("trtllm", "tensor_parallel_size: 8, pipeline_parallel_size: 2", "= 16 > 8"),
    ],
)
def test_what_is_too_large_is_refused_with_its_arithmetic(engine: str, args: str, arithmetic: str) -> None:
    verdict = judged(recipe(H100 + "agg_nodes: 1, agg_workers: 1", engine, aggregated=args))

    assert (verdict.verdict, verdict.codes) == ("rejected", ("D308",))
    assert arithmetic in verdict.reasons[0]
    assert (verdict.gpus_needed, verdict.gpus_allocated) == (16, 8)


def test_idle_gpus_warn() -> None:
    verdict = judged(recipe(H100 + "agg_nodes: 1, agg_workers: 1", "vllm", aggregated="tensor-parallel-size: 4"))

    assert (verdict.verdict, verdict.codes) == ("warned", ("D309",))


def test_an_unknown_flag_is_unchecked_and_kept() -> None:
    text = recipe(H100 + "agg_nodes: 1, agg_workers: 1", "vllm", aggregated="tensor-parallel-size: 8, new-flag: 1")
    verdict = judged(text)

    assert verdict.verdict == "accepted"
    assert any("new-flag" in entry for entry in verdict.unchecked)
