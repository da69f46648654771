"""From folders and files to reports, by the command itself."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from report_samples import HOSTILE, samples
from result_rows import row, spread

import dynamoc
from dynamoc.compiler.campaign.limits import read_limit
from dynamoc.launcher.cli import root
from dynamoc.launcher.report.collect import collect
from dynamoc.launcher.report.export import escape, to_csv, to_markdown, to_parquet
from dynamoc.launcher.report.points import ReportError
from dynamoc.launcher.report.view import make_view
from dynamoc.launcher.results.record import RequestRecord
from dynamoc.launcher.results.row import Row, encode_row

SIMULATED = """\
dynamoc: 1
campaign: tiny
base:
  dynamoc: 1
  name: mockers
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: mocker, device: cuda, block_size: 16, context_length: 2048, kv_blocks: 2048}
  components:
    frontend: {role: frontend, port: 8000}
    router: {role: router, policy: kv}
    prefill: {role: prefill, replicas: 1}
    decode: {role: decode, replicas: 1}
  edges: [frontend -> router -> prefill -> decode]
cluster: cluster.yaml
target: simulated
axes: {decode: {path: components.decode.replicas, values: [1, 2, 3]}}
where: [decode < 3]
loads: [{isl: 64, osl: 8, concurrency: [1, 4], requests: 8}]
sla: [ttft_ms@p99 <= 500]
"""


def run(*words: object) -> Any:
    return CliRunner().invoke(root, ["report", *map(str, words)])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run-1"
    (folder / "results").mkdir(parents=True)
    (folder / "evidence").mkdir()
    (folder / "spec.yaml").write_text("name: a\n")
    for name, load in (("c1", 1), ("c4", 4)):
        one = row(name, run="run-1", concurrency=load, tpot_ms=spread(10.0 * load), output_tokens_per_s=40.0 * load)
        (folder / "results" / f"{name}.json").write_bytes(encode_row(one))
    (folder / "evidence/load-c9.txt").write_text("load point c9: none of 9 requests was completed\nmore\n")
    return folder


def test_a_run_is_a_page(run_folder: Path, tmp_path: Path) -> None:
    result = run(run_folder, "-o", tmp_path / "out.html", "--price", "2")

    assert result.exit_code == 0, result.output
    assert "2 points" in result.output
    page = (tmp_path / "out.html").read_text()
    assert "none of 9 requests was completed" in page
    assert 'href="./run-1/evidence/load-c9.txt"' in page


def test_the_output_says_the_form(run_folder: Path, tmp_path: Path) -> None:
    run(run_folder, "-o", tmp_path / "out.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))

    assert [(one["load"], one["tokens_per_s_user"], one["frontier"]) for one in rows] == [
        ("1 in flight", "100.0", "True"),
        ("4 in flight", "25.0", "True"),
    ]


def test_rows_in_a_file_are_points(tmp_path: Path) -> None:
    """Three repeats of one point."""
    lines = b"".join(msgspec.json.encode(row("c1", started=float(n))) + b"\n" for n in range(3))
    (tmp_path / "rows.jsonl").write_bytes(lines)
    (point,) = collect([tmp_path / "rows.jsonl"]).measured

    assert len(point.rows) == 3


def test_the_same_rows_twice_are_the_same_repeats(run_folder: Path) -> None:
    assert len(collect([run_folder, run_folder]).measured[0].rows) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing", None, "does not exist"),
        ("notes.txt", b"hello", "is neither a campaign's folder"),
        ("rows.jsonl", b'{"point": 1}\n', "cannot be reported: "),
        ("rows.json", b"{", "cannot be reported: "),
        ("rows.json", b"\xff\xfe", "cannot be reported: "),
    ],
)
def test_what_is_no_result_is_said_so(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ReportError, match=re.escape(says)):
        collect([tmp_path / name])
    result = run(tmp_path / name)

    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_a_wrong_target_is_answered_with_a_right_one(run_folder: Path) -> None:
    result = run(run_folder, "--sla", "ttft@p95 <= 500")

    assert result.exit_code == 2
    assert "ttft_ms@p95 <= 500" in result.output


def test_worse_than_before_is_exit_1(run_folder: Path, tmp_path: Path) -> None:
    slow = msgspec.json.decode((run_folder / "results/c1.json").read_bytes(), type=Row)
    now = tmp_path / "now.jsonl"
    now.write_bytes(msgspec.json.encode(msgspec.structs.replace(slow, requests_per_s=1.0)) + b"\n")
    same = run(run_folder, "-o", tmp_path / "a.md", "--against", run_folder)
    worse = run(now, "-o", tmp_path / "b.html", "--against", run_folder)

    assert (same.exit_code, worse.exit_code) == (0, 1), same.exception
    assert "1 points are in both; of their figures 5 same, 0 better, 1 worse" in worse.output
    assert "<td>requests/s</td><td>2</td><td>1</td><td>0.5</td><td>worse</td>" in (tmp_path / "b.html").read_text()


def test_a_campaign_is_reported_with_what_was_pruned_and_specs_that_compile(tmp_path: Path) -> None:
    cluster = Path(dynamoc.__file__).parents[2] / "examples/campaigns/cluster.yaml"
    (tmp_path / "cluster.yaml").write_bytes(cluster.read_bytes())
    (tmp_path / "tiny.yaml").write_text(SIMULATED)
    swept = CliRunner().invoke(root, ["sweep", str(tmp_path / "tiny.yaml"), "--campaigns-dir", str(tmp_path / "all")])
    assert swept.exit_code == 0, swept.output
    (folder,) = (tmp_path / "all").glob("tiny-*")
    results = collect([folder])

    assert len(results.measured) == 4
    assert all(point.simulated for point in results.measured)
    assert [(one.rule, one.values, one.notes) for one in results.pruned] == [
        ("where", {"decode": "3"}, ("3 < 3 is false",))
    ]
    assert results.holdings is None
    for number, point in enumerate(results.measured):
        assert point.spec is not None
        (tmp_path / f"spec-{number}.yaml").write_text(point.spec)
        checked = CliRunner().invoke(
            root, ["check", str(tmp_path / f"spec-{number}.yaml"), "--cluster", str(tmp_path / "cluster.yaml")]
        )
        assert checked.exit_code == 0, checked.output
        assert f"concurrency: {point.rows[0].concurrency}" in point.spec
    assert run(folder, "-o", tmp_path / "out.html").exit_code == 0


def test_tables_agree_with_each_other() -> None:
    results = samples()
    view = make_view(results, results.limits, None, Path("/reports"))
    rows = list(csv.DictReader(io.StringIO(to_csv(view).decode(), newline="")))
    table = pq.read_table(io.BytesIO(to_parquet(view))).to_pylist()

    assert rows[5]["point"] == f"replicas {HOSTILE}"
    assert [one["point"] for one in table] == [one["point"] for one in rows]
    for text, value in zip(rows, table, strict=True):
        assert set(text) == set(value)
        assert all(text[name] == ("" if cell is None else str(cell)) for name, cell in value.items())


def test_markdown_takes_no_text_for_markup() -> None:
    results = samples()
    text = to_markdown(make_view(results, results.limits, None, Path("/reports"))).decode()

    assert "<" not in text.replace("&lt;", "")
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| ")}
    assert len(columns) == 1
    assert escape("a|b\n*c* <d> & e") == "a\\|b \\*c\\* &lt;d&gt; &amp; e"


def test_what_the_page_says_is_json_of_the_view(run_folder: Path, tmp_path: Path) -> None:
    run(run_folder, "-o", tmp_path / "out.html")
    found = re.search(r'id="data">(.*?)</script>', (tmp_path / "out.html").read_text(), re.DOTALL)
    assert found is not None
    points = json.loads(found[1])["view"]["points"]

    assert points[0]["figures"]["throughput"] == 10.0
    assert points[1]["figures"]["gpu_hours_per_1k"] == pytest.approx(4 * 1000 / 2 / 3600, rel=1e-4)


def test_requests_on_record_say_how_many_kept_the_sla(run_folder: Path) -> None:
    """Of 10 requests in 5 s, 7 in time, 2 late, 1 failed: 70 %, 1.4/s."""
    times = [100.0] * 7 + [900.0] * 2
    records = [
        RequestRecord(index=n, started=0.0, e2e_ms=ttft + 50, input_tokens=8, output_tokens=20, ttft_ms=ttft)
        for n, ttft in enumerate(times)
    ]
    records.append(RequestRecord(index=9, started=0.0, e2e_ms=1.0, input_tokens=8, output_tokens=0, error="refused"))
    (run_folder / "results/c1").mkdir()
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    (run_folder / "results/c1/records.jsonl").write_bytes(lines)
    view = make_view(collect([run_folder]), [read_limit("ttft_ms@p95 <= 500")], None, run_folder)

    assert view.points[0].attained == {"ttft_ms@p95 <= 500": 0.7}
    assert view.points[0].figures["kept_per_s"] == 1.4
    assert view.points[0].figures["gpu_hours_per_1k_kept"] == pytest.approx(4 * 1000 / 1.4 / 3600, rel=1e-4)
    assert view.points[1].attained == {}
