"""Campaigns expand as they say: counted, in order, the same every time, and with a reason for what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from proving import LAPTOP, ROOT, cards

from dynamoc.compiler.campaign.expand import Inputs, expand
from dynamoc.compiler.campaign.points import Campaign
from dynamoc.compiler.campaign.read import base_within, campaign_reporter, read_campaign
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.directives import gpus_of_the_job
from dynamoc.compiler.load_plan import gpus_working
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

HEAD = """dynamoc: 1
campaign: demo
base:
  dynamoc: 1
  name: demo
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: native, context_length: 2048, kv_memory: 64 MiB}
  components:
    frontend: {role: frontend, port: 8000}
    router: {role: router}
    prefill: {role: prefill}
    decode: {role: decode}
  edges: [frontend -> router -> prefill -> decode]
"""
LOADS = "loads: [{isl: 128, osl: 32, concurrency: [1, 4]}]\n"
MODELS = cards()


def campaign(body: str, loads: str = LOADS) -> Campaign:
    source = read_source(HEAD + body + loads, "campaign.yaml")
    report = campaign_reporter(source)
    cluster = read_cluster(read_source(LAPTOP, "cluster.yaml"))
    inputs = Inputs(source, base_within(source), cluster, load_target("local"), gpus_working, lambda _: MODELS)
    return expand(read_campaign(source, report), inputs, report)


def values(body: str) -> list[dict[str, Any]]:
    return [dict(deployment.values) for deployment in campaign(body).deployments]


def test_the_last_axis_turns_fastest_and_loads_share_a_deployment() -> None:
    found = campaign("axes: {defaults.block_size: [16, 32], defaults.max_sequences: [4, 8]}\n")

    assert [tuple(d.values.values()) for d in found.deployments] == [(16, 4), (16, 8), (32, 4), (32, 8)]
    assert [len(d.points) for d in found.deployments] == [2, 2, 2, 2]
    assert {p.load.concurrency for p in found.points} == {1, 4}
    assert len({p.id for p in found.points}) == 8


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("{path: defaults.block_size, values: [16, 32]}", [{"x": 16}, {"x": 32}]),
        (
            "{zip: {defaults.block_size: [16, 32], defaults.max_sequences: [4, 8]}}",
            [
                {"defaults.block_size": 16, "defaults.max_sequences": 4},
                {"defaults.block_size": 32, "defaults.max_sequences": 8},
            ],
        ),
        (
            "{list: [{defaults.block_size: 16}, {defaults.max_sequences: 4}]}",
            [{"defaults.block_size": 16}, {"defaults.max_sequences": 4}],
        ),
        (
            "{variants: {small: {defaults.max_sequences: 4}, large: {defaults.max_sequences: 8}}}",
            [
                {"x": "small", "defaults.max_sequences": 4},
                {"x": "large", "defaults.max_sequences": 8},
            ],
        ),
    ],
)
def test_each_kind_of_axis(axis: str, expected: list[dict[str, Any]]) -> None:
    assert values(f"axes: {{x: {axis}}}\n") == expected


def test_draws_are_the_same_for_ever() -> None:
    draw = "axes: {x: {random: {count: 4, seed: 7, of: {defaults.max_sequences: {min: 1, max: 64}}}}}\n"

    assert [v["defaults.max_sequences"] for v in values(draw)] == [42, 58, 51, 45]


def test_a_latin_hypercube_meets_every_slice_once() -> None:
    draw = (
        "axes: {x: {latin: {count: 16, seed: 3, of: {a: {min: 0, max: 16.0}, b: {min: 1, max: 65536, log: true}}}}}\n"
    )
    found = campaign(draw + "set: {defaults.max_sequences: floor(a) + 1}\n")
    rows = [dict(d.values) for d in found.deployments]

    assert sorted(int(row["a"]) for row in rows) == list(range(16))
    assert sum(row["b"] < 256 for row in rows) == 8


def test_what_is_derived_is_set_and_the_spec_compiles_by_itself() -> None:
    found = campaign(
        "axes: {batch: [4, 8]}\nderive: {tokens: batch * 64}\nset: {defaults.max_batched_tokens: tokens}\n"
    )
    cluster = read_cluster(read_source(LAPTOP, "cluster.yaml"))

    for deployment in found.deployments:
        plan = prove(read_source(deployment.spec, "spec.yaml"), cluster, MODELS, load_target("local")).plan
        assert plan is not None
        worker = plan.graph.component("decode").worker
        assert worker is not None
        assert worker.max_batched_tokens == deployment.values["batch"] * 64


def test_what_is_pruned_keeps_its_rule_and_arithmetic() -> None:
    found = campaign(
        "axes: {p: [1, 2, 3], defaults.block_size: [16]}\nset: {components.prefill.replicas: p}\nwhere: [p + 1 <= 3]\n",
        "loads: [{isl: 128, osl: 32, concurrency: 1}, {isl: 3000, osl: 32, concurrency: 1}]\n",
    )
    by_rule = {(one.rule, one.notes[0]) for one in found.pruned}

    assert by_rule == {("where", "3 + 1 <= 3 is false"), ("D320", "isl = 3000 > 2048")}
    assert len(found.pruned) == 3
    assert len(found.points) == 2


def test_ids_know_no_names_but_everything_else() -> None:
    one = campaign("axes: {defaults.block_size: [16]}\n")
    renamed = campaign("axes: {b: {path: defaults.block_size, values: [16]}}\n".replace("demo", "x"))
    other = campaign("axes: {defaults.block_size: [32]}\n")

    assert [p.id for p in one.points] == [p.id for p in renamed.points]
    assert not {p.id for p in one.points} & {p.id for p in other.points}


def test_the_same_point_twice_is_one() -> None:
    found = campaign("axes: {x: {list: [{defaults.block_size: 16}, {defaults.block_size: 16}]}}\n")

    assert len(found.deployments) == 1
    assert len(found.points) == 2
    assert found.same == 2


def test_a_mistake_is_shown_where_the_campaign_says_it() -> None:
    with pytest.raises(CompileError) as caught:
        campaign("axes:\n  defaults.block_sise: [16]\n")
    (found,) = caught.value.diagnostics

    assert found.code == "D110"
    assert (found.labels[0].span.file, found.labels[0].span.line) == ("campaign.yaml", 15)
    assert "with defaults.block_sise = 16" in found.notes


@pytest.mark.parametrize(
    "text",
    ["().__class__", "open('x')", "__import__('os')", "9 ** 9 ** 9", "'a' * 10 ** 9", "[x for x in y]", "lambda: 1"],
)
def test_an_expression_has_no_effect_and_no_end_of_the_world(text: str) -> None:
    with pytest.raises(CompileError) as caught:
        campaign(f'axes: {{y: [1]}}\nwhere: ["{text}"]\n')

    assert [found.code for found in caught.value.diagnostics] == ["D601"]


@pytest.mark.parametrize(("name", "presets", "odd"), [("trtllm-mtp-off", 24, 0), ("trtllm-mtp-on", 27, 4)])
def test_the_presets_of_the_sweep_are_all_proved(name: str, presets: int, odd: int) -> None:
    folder = ROOT / "examples/campaigns"
    source = read_source((folder / f"{name}.yaml").read_bytes(), name)
    base = read_source((folder / "trtllm-base.yaml").read_bytes(), "base")
    cluster = read_cluster(read_source((ROOT / "examples/slurm/deepseek-r1-gb200/cluster.yaml").read_bytes(), "c"))
    report = campaign_reporter(source)
    inputs = Inputs(source, base, cluster, load_target("slurm"), gpus_of_the_job, lambda _: MODELS)
    found = expand(read_campaign(source, report), inputs, report)

    assert (len(found.deployments), len(found.pruned)) == (presets, 0)
    assert sum(len(w.notes) for w in found.warnings if w.code == "D610") == odd
