"""Every load that a campaign can name is proved, measured, and given back as a spec that compiles to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from rich.console import Console

from dynamoc.compiler.campaign.points import Point
from dynamoc.compiler.load_plan import load_plan
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.source import Source, read_source
from dynamoc.launcher.campaign.opening import models_of, open_campaign
from dynamoc.launcher.campaign.running import run_campaign
from dynamoc.launcher.campaign.state import State
from dynamoc.launcher.campaign.store import Store, create_store
from dynamoc.launcher.cli import root
from dynamoc.launcher.load.trace_facts import facts_of
from dynamoc.launcher.reading import Findings
from dynamoc.launcher.report.campaign import read_campaign

CAMPAIGN = """dynamoc: 1
campaign: loads
base:
  dynamoc: 1
  name: mocker
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: mocker, device: cpu, context_length: 1024, kv_blocks: 512}
  components: {frontend: {role: frontend, port: 8000}, router: {role: router}, worker: {role: aggregated}}
  edges: [frontend -> router -> worker]
target: simulated
sla: [tpot_ms@p99 <= 6.1]
loads:
"""
TRACE = "".join(
    json.dumps({"timestamp": 50 * n, "input_length": 40 + n, "output_length": 3 + n % 4, "hash_ids": [1, n + 2]}) + "\n"
    for n in range(20)
)


def opened(folder: Path, loads: str) -> Store:
    (folder / "trace.jsonl").write_text(TRACE)
    (folder / "c.yaml").write_text(CAMPAIGN + loads)
    found = open_campaign(folder / "c.yaml", Findings())
    return create_store(folder, found.campaign, found.cluster, found.texts)


def dry_run(folder: Path, loads: str) -> Result:
    (folder / "trace.jsonl").write_text(TRACE)
    (folder / "c.yaml").write_text(CAMPAIGN + loads)
    return CliRunner().invoke(root, ["sweep", str(folder / "c.yaml"), "--dry-run"])


EVERY = """\
  - {isl: 64, osl: 8, isl_stddev: 8, osl_stddev: 2, concurrency: [1, 2], requests: 6}
  - {isl: 64, osl: 8, shared_prefix: 0.5, prefixes: 3, request_rate: 40, requests: 6, seed: 5}
  - {isl: 64, osl: 8, trace: trace.jsonl, trace_speed: 2, trace_block_tokens: 32}
  - {isl: 64, osl: 8, trace: trace.jsonl, trace_block_tokens: 32, requests: 10, concurrency: [1, 4]}
  - {isl: 64, osl: 8, search: {max: 8}, requests: 8}
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = opened(tmp_path_factory.mktemp("loads"), EVERY)
    run_campaign(store, Console(quiet=True), lambda _: None)
    return store


def test_every_kind_of_load_is_measured(measured: Store) -> None:
    rows = {row.point: row for row in measured.results.read()}
    points = State(measured).points()
    by_load = {(p.load.id, p.load.requests): rows[p.id] for p in points.values()}

    assert set(rows) == set(points), "points of a search are known like any other"
    assert by_load["trace", None].completed == 20
    assert by_load["trace", None].duration_s < 0.8, "19 gaps of 50 ms at twice the speed"
    assert by_load["c1-trace", 10].completed == by_load["c4-trace", 10].completed == 10
    assert by_load["c2", 6].isl != 64
    assert by_load["r40", 6].completed == 6


def test_a_report_gives_the_spec_of_every_point_and_it_compiles_to_that_point(measured: Store) -> None:
    """Also of points that a search found: compiled again, the load is the one that was measured."""
    points = State(measured).points()
    cluster = measured.inventory()
    found = read_campaign(measured.folder).measured

    assert {one.id for one in found} == set(points)
    assert sum(one.id not in known_before(measured) for one in found) >= 2
    for one in found:
        assert one.spec is not None
        source = source_of(one.spec, points[one.id])
        plan, _ = build_plan(source, cluster, models_of(cluster)(source))
        made = load_plan(plan, 0)
        assert made is not None
        (load,) = made.points
        assert load == points[one.id].load


def known_before(store: Store) -> set[str]:
    return {point.id for one in store.deployments() for ladder in one.ladders for point in ladder.points}


def source_of(spec: str, point: Point) -> Source:
    source = read_source(spec, "spec.yaml")
    trace = point.load.trace
    return source if trace is None else replace(source, traces={trace.path: facts_of(Path(trace.path))})


@pytest.mark.parametrize(
    ("load", "code", "said"),
    [
        ("{isl: 64, osl: 8, trace: absent.jsonl}", "D223", "No such file"),
        ("{isl: 64, osl: 8, trace: trace.jsonl}", "D223", "512 is not from 30 to 39"),
        ("{isl: 50, osl: 8, trace: trace.jsonl, trace_block_tokens: 32}", "D224", "59 > 50"),
        ("{isl: 64, osl: 8, trace: trace.jsonl, trace_block_tokens: 32, requests: 21}", "D223", "20 < 21"),
        ("{isl: 64, osl: 8, trace: trace.jsonl, request_rate: 3}", "D115", "`trace` and `request_rate`"),
        ("{isl: 64, osl: 8, trace: trace.jsonl, search: {max: 4}}", "D115", "`search` and `trace`"),
        ("{isl: 64, osl: 8, concurrency: 4, prefixes: 2}", "D116", "the load has no `shared_prefix`"),
        ("{isl: 64, osl: 8}", "D111", "`concurrency`, `request_rate`, `search` or `trace`"),
    ],
)
def test_a_load_that_cannot_be_is_a_mistake_marked_in_the_campaign(
    load: str, code: str, said: str, tmp_path: Path
) -> None:
    done = dry_run(tmp_path, f"  - {load}\n")

    assert done.exit_code == 1, done.output
    assert f"error[{code}]" in done.output
    assert said in done.output
    assert "c.yaml:13" in done.output


def test_lengths_that_vary_beyond_the_context_are_pruned_with_the_sum(tmp_path: Path) -> None:
    loads = "".join(f"  - {{isl: 900, osl: 64, isl_stddev: {stddev}, concurrency: 1}}\n" for stddev in (30, 31))
    (pruned,) = opened(tmp_path, loads).pruned()

    assert (pruned.rule, pruned.load["isl_stddev"]) == ("D320", 31)
    assert pruned.notes[0] == "isl + 2 x isl_stddev + osl = 900 + 2 x 31 + 64 = 1026 > 1024"


def test_the_tool_of_a_load_is_a_word_and_no_expression(tmp_path: Path) -> None:
    store = opened(tmp_path, "  - {isl: 64, osl: 8, concurrency: 1, tool: aiperf}\n")

    assert [point.tool for point in State(store).points().values()] == ["aiperf"]


def test_a_trace_that_changed_after_it_was_proved_is_not_replayed(tmp_path: Path) -> None:
    store = opened(tmp_path, "  - {isl: 64, osl: 8, trace: trace.jsonl, trace_block_tokens: 32}\n")
    (tmp_path / "trace.jsonl").write_text(TRACE.replace('"input_length": 40', '"input_length": 41'))
    run_campaign(store, Console(quiet=True), lambda _: None)
    (failure,) = State(Store(store.folder)).failures().values()

    assert failure.cause == "config"
    assert "another than the one that was proved" in failure.reason
