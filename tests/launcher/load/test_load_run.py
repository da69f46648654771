"""From load points to rows and evidence, against a real server."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_server import Exchange, SmallServer, small_server, well
from tokenizers import Tokenizer, models, pre_tokenizers

from dynamoc.launcher.load.generator import Measured
from dynamoc.launcher.load.point import LoadError, LoadPlan, LoadPoint, RequestRecord, read_load
from dynamoc.launcher.load.remaining import remaining
from dynamoc.launcher.load.run import row_of, run_load
from dynamoc.launcher.results.row import (
    PERCENTILES,
    Row,
    RowError,
    encode_row,
    percentile,
    read_row,
    rows_of,
    spread_of,
)
from dynamoc.runtime.manifest import Manifest, ModelRef, ProcessSpec, Role

FACTS = {"run": "r", "model": "m", "tool": "builtin", "tool_version": "1"}


def point(name: str, requests: int = 4, deadline_s: float = 20.0) -> LoadPoint:
    return LoadPoint(
        id=name,
        isl=5,
        osl=3,
        requests=requests,
        warmup_requests=0,
        concurrency=2,
        rate=None,
        shared_prefix=0.0,
        seed=0,
        deadline_s=deadline_s,
    )


def load(*points: LoadPoint) -> LoadPlan:
    return LoadPlan(tool="builtin", gpus_allocated=8, points=points)


@dataclass
class ServedBySmall:
    """A run whose only process is the small server."""

    folder: Path
    server: SmallServer
    hosts: tuple[str, ...] = ("127.0.0.1",)
    shown: list[Row] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        ports = {"http": self.server.port}
        front = ProcessSpec(
            name="frontend-0",
            component="frontend",
            role=Role.FRONTEND,
            replica=0,
            node=0,
            argv=(),
            ports=ports,
            gpus=(0, 1),
        )
        model = ModelRef(ref="small", served_name="small", path=str(self.folder))
        return Manifest(version=1, name="small", plan_hash="", model=model, nodes=1, processes=(front,))

    def urls(self) -> tuple[str, ...]:
        return (self.server.url,)

    def make(self, plan: LoadPlan) -> list[str]:
        return run_load(self, plan, self.shown.append)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = [a + b for a in "bcdfgh" for b in "aeiou"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="ba"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_point_becomes_a_row_and_its_records(folder: Path) -> None:
    with small_server() as server:
        run = ServedBySmall(folder, server)
        faults = run.make(load(point("c2")))
    row = read_row(folder / "results/c2.json")
    records = [json.loads(line) for line in (folder / "results/c2/records.jsonl").read_text().splitlines()]

    assert faults == []
    assert run.shown == [row] == list(rows_of(folder))
    assert (row.requests, row.completed, row.failed) == (4, 4, 0)
    assert (row.isl_asked, row.osl_asked, row.osl) == (5, 3, 3.0)
    assert (row.gpus_allocated, row.gpus_working) == (8, 2)
    assert row.output_tokens_per_s == pytest.approx(12 / row.duration_s, rel=1e-3)
    assert row.requests_per_s == pytest.approx(4 / row.duration_s, rel=1e-3)
    assert len(records) == 4
    assert row.e2e_ms is not None
    assert row.e2e_ms.avg == pytest.approx(sum(record["e2e_ms"] for record in records) / 4, rel=1e-3)


def test_a_run_goes_on_with_the_points_that_have_no_result(folder: Path) -> None:
    plan = load(point("c1"), point("c2"))
    with small_server() as server:
        run = ServedBySmall(folder, server)
        run.make(load(point("c1")))
        asked = len(server.bodies)
        assert [p.id for p in remaining(folder, plan)] == ["c2"]
        assert run.make(plan) == []
        assert len(server.bodies) == asked + 4
        assert remaining(folder, plan) == ()
        assert run.make(plan) == []
        assert len(server.bodies) == asked + 4


def test_some_failures_are_counted_and_leave_a_result(folder: Path) -> None:
    async def now_and_then(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.head("500 Internal Server Error", "content-length: 0")
        else:
            await well(exchange)

    with small_server(now_and_then) as server:
        assert ServedBySmall(folder, server).make(load(point("c2"))) == []
    row = read_row(folder / "results/c2.json")

    assert (row.completed, row.failed) == (3, 1)
    assert row.complete


def test_a_load_that_comes_to_nothing_is_a_fault_with_evidence_and_no_result(folder: Path) -> None:
    async def refuse(exchange: Exchange) -> None:
        exchange.head("503 Service Unavailable", "content-length: 4")
        exchange.writer.write(b"full")

    with small_server(refuse) as server:
        faults = ServedBySmall(folder, server).make(load(point("c2")))
    evidence = (folder / "evidence/load-c2.txt").read_text()

    assert len(faults) == 1
    assert "load point `c2`: none of 4 requests was completed; the first error is: status 503: full" in faults[0]
    assert "see evidence/load-c2.txt" in faults[0]
    assert "error: status 503: full" in evidence
    assert not (folder / "results/c2.json").exists()
    assert len((folder / "results/c2/records.jsonl").read_text().splitlines()) == 4


def test_a_point_that_is_not_over_in_time_is_a_fault_and_the_next_is_made(folder: Path) -> None:
    async def stuck(exchange: Exchange) -> None:
        await well(exchange, 30.0 if exchange.number < 2 else 0.0)

    with small_server(stuck) as server:
        faults = ServedBySmall(folder, server).make(load(point("slow", deadline_s=0.5), point("fast")))

    assert len(faults) == 1
    assert "`slow`: not over before its deadline: 2 of 4 requests made, 0 completed" in faults[0]
    assert [row.point for row in rows_of(folder)] == ["fast"]


def test_a_load_file_that_is_none_is_said(tmp_path: Path) -> None:
    assert read_load(tmp_path) is None
    (tmp_path / "load.json").write_text('{"tool": "builtin"}')
    with pytest.raises(LoadError, match=r"load\.json: .*gpus_allocated"):
        read_load(tmp_path)


def test_a_results_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(RowError, match=r"x\.json"):
        read_row(tmp_path / "x.json")


def test_a_row_is_arithmetic_on_its_records() -> None:
    """Two requests, one after another, of 3 tokens each: 100 ms to the first, 50 ms between."""
    records = tuple(
        RequestRecord(
            index=n,
            started=1000.0 + n * 0.2,
            e2e_ms=200.0,
            input_tokens=7,
            output_tokens=3,
            ttft_ms=100.0,
            token_ms=(100.0, 150.0, 200.0),
        )
        for n in range(2)
    )
    failed = RequestRecord(index=2, started=1000.4, e2e_ms=100.0, input_tokens=0, output_tokens=0, error="no")
    row = row_of(point("c1", requests=3), Measured((*records, failed), 1000.0, 1000.5, complete=True), FACTS)

    assert row.duration_s == pytest.approx(0.5)
    assert row.requests_per_s == pytest.approx(4.0)
    assert row.output_tokens_per_s == pytest.approx(12.0)
    assert row.input_tokens_per_s == pytest.approx(28.0)
    assert row.effective_concurrency == pytest.approx(1.0)
    assert (row.isl, row.osl) == (7.0, 3.0)
    assert row.tpot_ms is not None and row.tpot_ms.avg == row.tpot_ms.p99 == 50.0
    assert row.itl_ms is not None and row.itl_ms.p50 == 50.0
    assert row.ttft_ms is not None and row.ttft_ms.p95 == 100.0
    assert (row.completed, row.failed) == (2, 1)


def test_a_row_survives_its_file(tmp_path: Path) -> None:
    row = row_of(point("c1"), Measured((), 1.0, 2.0, complete=True), FACTS)
    (tmp_path / "row.json").write_bytes(encode_row(row))

    assert read_row(tmp_path / "row.json") == row
    assert row.ttft_ms is None


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_percentiles_are_numpys(values: list[float]) -> None:
    ordered = sorted(values)
    for share in PERCENTILES:
        assert percentile(ordered, share) == pytest.approx(float(np.percentile(values, share)), rel=1e-9, abs=1e-9)
    spread = spread_of(values)
    assert spread is not None
    assert math.isclose(spread.avg, float(np.mean(values)), rel_tol=1e-6, abs_tol=1e-3)
