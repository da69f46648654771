"""Loads that replay a trace or have lengths that vary: what is proved is the longest request that will be sent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proving import LAPTOP, cards, facts_in, prove
from test_load_plan import load_of

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.edits import apply
from dynamoc.compiler.load_plan import LoadPoint, Trace, load_plan, said_of
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source

SPEC = """\
dynamoc: 1
name: replay
model: {{ref: HuggingFaceTB/SmolLM2-135M-Instruct}}
defaults: {{engine: mocker, device: cpu, context_length: {context}, kv_blocks: 512}}
components: {{frontend: {{role: frontend, port: 8000}}, router: {{role: router}}, worker: {{role: aggregated}}}}
edges: [frontend -> router -> worker]
load: {load}
"""


def line(at: float, isl: int, osl: int, hashes: int = 0) -> str:
    fields = {"timestamp": at, "input_length": isl, "output_length": osl, "hash_ids": list(range(hashes))}
    return json.dumps(fields) + "\n"


LONG_THEN_WORDY = line(0, 1000, 10, 2) + line(100, 20, 500, 1)


@pytest.mark.parametrize(
    ("load", "codes", "note"),
    [
        ("isl: 1000, osl: 500, trace: trace.jsonl", [], ""),
        ("isl: 999, osl: 500, trace: trace.jsonl", ["D224"], "1000 > 999"),
        ("isl: 1000, osl: 499, trace: trace.jsonl, requests: 1", [], ""),
        ("isl: 1000, osl: 499, trace: trace.jsonl", ["D224"], "500 > 499"),
        ("isl: 1000, osl: 500, trace: trace.jsonl, requests: 3", ["D223"], "2 < 3"),
        ("isl: 1000, osl: 500, trace: trace.jsonl, trace_block_tokens: 16", ["D223"], "16 is not from 500 to 999"),
        ("isl: 1000, osl: 500, trace: trace.jsonl, request_rate: 2", ["D115"], ""),
        ("isl: 1000, osl: 500, trace: trace.jsonl, shared_prefix: 0.5", ["D116"], ""),
        ("isl: 100, osl: 50, concurrency: 2, trace_speed: 2", ["D116"], ""),
        ("isl: 100, osl: 50, concurrency: 2, prefixes: 4", ["D116"], ""),
        ("isl: 800, osl: 100, concurrency: 2, isl_stddev: 62", [], ""),
        (
            "isl: 800, osl: 100, concurrency: 2, isl_stddev: 63",
            ["D320"],
            "isl + 2 x isl_stddev + osl = 800 + 2 x 63 + 100 = 1026 > 1024",
        ),
    ],
)
def test_what_is_wrong_with_a_load_is_found_before_it_is_made(load: str, codes: list[str], note: str) -> None:
    spec = SPEC.format(load=f"{{{load}}}", context=1024)
    found = prove(spec, trace=LONG_THEN_WORDY)

    assert found.codes == codes
    assert not note or [d.notes[0] for d in found.diagnostics] == [note]
    for fix in (fix for d in found.diagnostics for fix in d.fixes):
        assert not prove(apply(spec, fix.edits), trace=LONG_THEN_WORDY).codes


def test_a_context_holds_the_longest_request_and_not_the_longest_prompt_beside_the_longest_answer() -> None:
    """1000 + 500 tokens are in no request of this trace: its longest is 1010."""
    load = "{isl: 1000, osl: 500, trace: trace.jsonl}"

    assert not prove(SPEC.format(load=load, context=1010), trace=LONG_THEN_WORDY).codes
    (found,) = prove(SPEC.format(load=load, context=1009), trace=LONG_THEN_WORDY).errors
    assert (found.code, found.notes) == ("D320", ("the longest request of the trace = 1010 > 1009",))


def test_a_line_that_is_wrong_matters_only_where_it_is_replayed() -> None:
    load = "{{isl: 1000, osl: 500, trace: trace.jsonl{}}}"
    broken = LONG_THEN_WORDY + "{}\n"
    (found,) = prove(SPEC.format(load=load.format(""), context=1024), trace=broken).errors

    assert found.code == "D223"
    assert found.labels[0].text.startswith("trace.jsonl:3: not a request of a trace in Mooncake's format")
    assert not prove(SPEC.format(load=load.format(", requests: 2"), context=1024), trace=broken).codes


def test_a_trace_that_nobody_looked_at_is_said() -> None:
    source = read_source(SPEC.format(load="{isl: 8, osl: 8, trace: t.jsonl}", context=64), "spec.yaml")
    plan, _ = build_plan(source, read_cluster(read_source(LAPTOP, "c")), cards())

    assert plan.unchecked == ("nothing is known of the trace `t.jsonl`",)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=12), st.integers(1, 700))
def test_facts_are_those_of_any_number_of_first_requests(requests: list[tuple[int, int]], block: int) -> None:
    """Against counting again for every number; the true size of a block is always possible."""
    facts = facts_in("".join(line(n * 10, i, o, -(-i // block)) for n, (i, o) in enumerate(requests)))

    assert (facts.requests, facts.fault) == (len(requests), "")
    for count in range(1, len(requests) + 1):
        extent, first = facts.extent(count), requests[:count]
        assert extent is not None
        assert extent.prompt == max(i for i, _ in first)
        assert extent.output == max(o for _, o in first)
        assert extent.together == max(i + o for i, o in first)
        assert extent.holds_block(block)
        for other in (extent.least_block - 1, extent.least_block, (extent.most_block or 0) + 1):
            fits = other > 0 and all(-(-i // other) == -(-i // block) for i, _ in first)
            assert fits == (other > 0 and extent.holds_block(other))


SAID = [
    LoadPoint(
        id="c4",
        isl=128,
        osl=32,
        requests=40,
        warmup_requests=4,
        concurrency=4,
        rate=None,
        shared_prefix=0.5,
        seed=3,
        deadline_s=3600.0,
        prefixes=8,
        isl_stddev=16.0,
        osl_stddev=4.5,
    ),
    LoadPoint(
        id="c2-r1.5",
        isl=128,
        osl=32,
        requests=9,
        warmup_requests=0,
        concurrency=2,
        rate=1.5,
        shared_prefix=0.0,
        seed=0,
        deadline_s=3600.0,
    ),
    LoadPoint(
        id="at-once",
        isl=128,
        osl=32,
        requests=100,
        warmup_requests=1,
        concurrency=None,
        rate=None,
        shared_prefix=0.0,
        seed=0,
        deadline_s=3600.0,
    ),
    LoadPoint(
        id="c8-trace",
        isl=128,
        osl=32,
        requests=None,
        warmup_requests=1,
        concurrency=8,
        rate=None,
        shared_prefix=0.0,
        seed=0,
        deadline_s=3600.0,
        trace=Trace(path="t.jsonl", block_tokens=64, speedup=2.5),
    ),
]


@pytest.mark.parametrize("point", SAID, ids=lambda point: point.id)
def test_a_point_is_what_a_spec_says_of_it(point: LoadPoint) -> None:
    """Every field comes back, so a report can give the spec of any point."""
    text = SPEC.replace("load: {load}\n", "").format(context=1024) + to_yaml({"load": said_of(point)})
    plan, _ = build_plan(read_source(text, "spec.yaml"), read_cluster(read_source(LAPTOP, "c")), cards())
    made = load_plan(plan, 0)

    assert made is not None
    assert made.points == (point,)


def test_a_load_of_a_spec_may_vary_and_share() -> None:
    made = load_of(
        "{isl: 512, osl: 64, isl_stddev: 32, osl_stddev: 8, shared_prefix: 0.25, prefixes: 4, concurrency: 2}"
    )

    assert made is not None
    (point,) = made["points"]
    assert (point["isl_stddev"], point["osl_stddev"], point["prefixes"]) == (32.0, 8.0, 4)
