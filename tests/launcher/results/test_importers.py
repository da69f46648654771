"""Each tool's file becomes the row that the tool itself prints; a file that is none, or is cut off, is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.launcher.results.importers.registry import read_results, to_lines
from dynamoc.launcher.results.row import Row, Spread
from dynamoc.launcher.results.verdict import Standing, judge

FOLDER = Path(__file__).parents[2] / "golden/results"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """vLLM writes a local date without its zone."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_format_becomes_its_rows(path: Path, golden: Any) -> None:
    golden.check(FOLDER / "rows" / f"{path.stem}.jsonl", to_lines(read_results(path)).decode())


def only(name: str) -> Row:
    [row] = read_results(FOLDER / name)
    return row


def test_aiperf_counts_failures_warm_up_prefixes_and_throttling() -> None:
    row = only("aiperf-1.4.json")

    assert (row.requests, row.completed, row.failed, row.warmup_requests) == (200, 198, 2, 50)
    assert (row.isl_asked, row.isl, row.osl_asked) == (768 + 256, 1024.0, 128)
    assert row.ttft_ms == Spread(avg=210.5, p50=200.25, p90=300.0, p95=340.75, p99=410.0)
    assert row.tpot_ms is not None and row.tpot_ms.avg == 12.5, "its inter-token latency is our TPOT"
    assert row.itl_ms is not None and row.itl_ms.p99 == 35.5
    assert row.throttled_share == pytest.approx(9.9 / 49.5 / 2)
    assert row.duration_s == 49.5
    assert [reason.rule for reason in judge(row).reasons] == ["clocks"]


def test_aiperf_before_it_had_a_schema() -> None:
    row = only("aiperf-before-1.0.json")

    assert (row.model, row.concurrency, row.requests, row.warmup_requests) == ("acme/model-32b", 2, 20, 3)
    assert row.duration_s == 40.0
    assert row.input_tokens_per_s == 1500.0
    assert row.itl_ms is None
    assert judge(row).standing is Standing.VALID


def test_aiperf_says_itself_that_it_was_the_limit(tmp_path: Path) -> None:
    data = json.loads((FOLDER / "aiperf-1.4.json").read_text())
    few = {**data, "effective_concurrency": {"avg": 5.0, "p50": 7.0}}
    late = {**data, "credit_to_start_latency": {"avg": 90.0, "p95": 300.0}}
    rated = json.loads(json.dumps(few))
    rated["input_config"]["phases"][1] |= {"type": "poisson", "rate": 4.0}
    for name, changed in (("few", few), ("late", late), ("rated", rated)):
        (tmp_path / f"{name}.json").write_text(json.dumps(changed))

    assert read_results(tmp_path / "few.json")[0].client_limit == "7 requests in flight (p50) < 0.9 x 8 asked for"
    limit = read_results(tmp_path / "late.json")[0].client_limit
    assert limit == "requests were sent 300.0 ms late (p95) > TTFT of 200.2 ms (p50)"
    assert not read_results(tmp_path / "rated.json")[0].client_limited, "a rate keeps no number in flight"


def test_means_over_runs_are_rows() -> None:
    row = only("aiperf-confidence.json")
    one, four = read_results(FOLDER / "aiperf-sweep.json")

    assert (row.concurrency, row.requests_per_s, row.labels) == (4, 10.0, {"mean_of_runs": "3"})
    assert (one.concurrency, four.concurrency) == (1, 4)
    assert (one.requests_per_s, four.requests_per_s) == (2.5, 10.0)


def test_genai_perf_tells_no_duration_but_what_gives_it() -> None:
    row = only("run_genai_perf.json")

    assert row.tool == "genai-perf"
    assert row.duration_s == 50 / 2.5
    assert (row.concurrency, row.isl_asked, row.warmup_requests, row.goodput_per_s) == (4, 550, 10, 2.0)


def test_vllm_keeps_tpot_apart_from_the_gaps() -> None:
    row = only("vllm-bench.json")

    assert row.tpot_ms == Spread(avg=20.0, p50=19.5, p99=25.0)
    assert row.itl_ms == Spread(avg=20.5, p50=19.0, p99=60.0)
    assert row.e2e_ms is None, "it was not asked for"
    assert (row.concurrency, row.request_rate, row.gpus_allocated) == (16, None, 4)
    assert (row.requests, row.completed, row.failed, row.isl, row.osl) == (100, 96, 4, 1024.0, 128.0)
    assert row.ended is not None and row.started == row.ended - 20.0


def test_sglang_appends_one_line_a_run_and_writes_infinity() -> None:
    first, second = read_results(FOLDER / "sglang-bench.jsonl")

    assert first.tool == "sglang-bench"
    assert (first.request_rate, second.request_rate) == (None, 5.0)
    assert (first.isl_asked, second.isl_asked) == (1024, None), "of spread lengths the one asked for is the largest"
    assert (first.point, second.point) == ("c32", "spread")
    assert first.e2e_ms is not None and first.e2e_ms.p95 == 2650.0


def test_guidellm_counts_seconds_and_its_tpot_has_the_first_token_in_it() -> None:
    row = only("guidellm.json")

    assert row.e2e_ms == Spread(avg=2900.0, p50=2850.0, p90=3200.0, p95=3300.0, p99=3500.0)
    assert row.tpot_ms is not None and row.tpot_ms.avg == 40.0
    assert (row.requests, row.completed, row.failed) == (63, 60, 1)
    assert row.output_tokens_per_s == 60 * 64 / 30


def test_a_profilers_arrays_are_the_same_as_its_json(tmp_path: Path) -> None:
    for name in ("prefill_raw_data", "decode_raw_data"):
        data = json.loads((FOLDER / f"{name}.json").read_text())
        np.savez(tmp_path / f"{name}.npz", **{key: np.array(value) for key, value in data.items()})
    found = read_results(tmp_path)
    prefill, decode = read_results(FOLDER / "prefill_raw_data.json"), read_results(FOLDER / "decode_raw_data.json")

    assert [(row.point, row.output_tokens_per_s, row.ttft_ms, row.tpot_ms) for row in found] == [
        (row.point, row.output_tokens_per_s, row.ttft_ms, row.tpot_ms) for row in [*decode, *prefill]
    ]
    assert prefill[1].input_tokens_per_s == 4424.779
    assert decode[1].output_tokens_per_s == 900.0
    assert decode[0].isl == 3000.0


RECORD = {
    "metadata": {"session_num": 0, "request_start_ns": 10**18, "request_end_ns": 10**18 + 10**7},
    "error": {"type": "ClientConnectorError", "message": "refused"},
}


def test_of_a_folder_each_run_counts_once_and_one_that_failed_as_a_whole_counts_too(tmp_path: Path) -> None:
    summary = (FOLDER / "aiperf-1.4.json").read_text()
    for name in ("concurrency_8", "concurrency_8/phases/profiling", "concurrency_8/phases/warmup"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "profile_export_aiperf.json").write_text(summary)
    (tmp_path / "concurrency_16").mkdir()
    (tmp_path / "concurrency_16/profile_export.jsonl").write_text(json.dumps(RECORD, separators=(",", ":")) + "\n")

    failed, good = read_results(tmp_path)
    assert (failed.point, failed.completed, failed.failed) == ("concurrency_16", 0, 1)
    assert judge(failed).standing is Standing.INVALID
    assert good.completed == 198


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.json", b"", "an empty file"),
        ("cut.json", (FOLDER / "vllm-bench.json").read_bytes()[:300], "not whole JSON, was it cut off"),
        ("cut.jsonl", (FOLDER / "sglang-bench.jsonl").read_bytes()[:-200], r"cut\.jsonl:2: not whole JSON"),
        ("other.json", b'{"name": "x", "values": []}', "not a result of a known tool .*`name`, `values`"),
        ("list.json", b"[1, 2]", "not a result of a known tool .*list"),
        ("binary.json", b"\xff\xfe\x00\x01", "cannot be read as text"),
        ("array.npz", b"PK\x03\x04 and no more", "not a whole npz file"),
        (
            "half.json",
            b'{"request_throughput": {"avg": 1.0}, "aiperf_version": "0.13.0", "input_config": {}}',
            "`request_count.avg` is not there",
        ),
        (
            "new.json",
            b'{"metadata": {"guidellm_version": "9", "version": 3}, "benchmarks": []}',
            "a report of version 3",
        ),
        (
            "lengths.json",
            b'{"prefill_isl": [1, 2], "prefill_ttft": [1], "prefill_thpt_per_gpu": [1]}',
            "prefill_isl has 2",
        ),
        (
            "words.json",
            b'{"completed": 1, "total_output_tokens": 1, "mean_ttft_ms": 1, "request_throughput": 1, "duration": "1"}',
            "`duration` is not there, or not a number",
        ),
        ("records.jsonl", b'{"metadata":{"session_num":0}}\n', r"records\.jsonl:1: not a record of AIPerf"),
        ("deep.json", b"[" * 100_000, "was it cut off"),
    ],
)
def test_a_file_that_is_no_result_is_said(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImportFault, match=said):
        read_results(tmp_path / name)


def test_pickles_in_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "raw_data.npz", prefill_isl=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ImportFault, match="allow_pickle=False"):
        read_results(tmp_path / "raw_data.npz")


def test_a_folder_without_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImportFault, match="no results of a known load tool"):
        read_results(tmp_path)


def test_of_a_folder_of_several_tools_every_result_counts_and_what_lies_beside_a_run_does_not(tmp_path: Path) -> None:
    produced = FOLDER / "produced"
    for run, summary in (("a", "aiperf-0.13.0.json"), ("g", "genai-perf-0.0.16_genai_perf.json")):
        (tmp_path / run).mkdir()
        name = "profile_export_aiperf.json" if run == "a" else "profile_export_genai_perf.json"
        shutil.copy(produced / summary, tmp_path / run / name)
        (tmp_path / run / "inputs.json").write_text('{"data": []}')
    shutil.copy(produced / "vllm-0.32.0.json", tmp_path)
    (tmp_path / "vllm-0.32.0.pytorch.json").write_text('[{"benchmark": {}}]')
    (tmp_path / "search_history.json").write_text('{"iterations": []}')
    shutil.copy(produced / "sglang-0.5.23.jsonl", tmp_path)

    tools = [row.tool for row in read_results(tmp_path)]
    assert tools == ["aiperf", "genai-perf", "sglang-bench", "sglang-bench", "vllm-bench"]
    assert [row.tool for row in read_results(tmp_path / "g")] == ["genai-perf"], "its inputs are no result"


def test_of_a_folder_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    whole = (FOLDER / "produced/vllm-0.32.0.json").read_bytes()
    files = {"cut.json": whole[:900], "empty.json": b"", "good.json": whole, "other.json": b'{"a": 1}'}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = dynamoc("import", str(tmp_path))

    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert [line.partition("json: ")[0].rpartition("/")[2] for line in lines] == ["cut.", "empty.", "other."]
    assert "not whole JSON" in lines[0] and "an empty file" in lines[1] and "not a result of a known" in lines[2]


def test_forms_of_a_report_that_round_are_refused_by_what_to_give_instead(tmp_path: Path) -> None:
    for name in ("r.csv", "r.yaml", "r.html"):
        (tmp_path / name).write_text("Metric,avg\n")
        with pytest.raises(ImportFault, match=r"is not read: give the JSON that the tool writes"):
            read_results(tmp_path / name)


def test_genai_perf_that_does_not_count_its_requests_is_counted_beside(tmp_path: Path) -> None:
    name = "genai-perf-0.0.8_genai_perf.json"
    shutil.copy(FOLDER / "produced" / name, tmp_path)
    with pytest.raises(ImportFault, match=r"does not say how many requests .* nor does .*genai-perf-0\.0\.8\.json"):
        read_results(tmp_path / name)
    (tmp_path / "genai-perf-0.0.8.json").write_text('{"experiments": [{}]}')
    with pytest.raises(ImportFault, match=r"nor does .*genai-perf-0\.0\.8\.json$"):
        read_results(tmp_path / name)
    shutil.copy(FOLDER / "produced/genai-perf-0.0.8.json", tmp_path)

    [row] = read_results(tmp_path / name)
    counted = json.loads((tmp_path / "genai-perf-0.0.8.json").read_text())["experiments"][0]["requests"]
    assert row.completed == len(counted) > 20


def test_rows_of_ours_are_read_back(tmp_path: Path) -> None:
    rows = read_results(FOLDER / "vllm-bench.json")
    (tmp_path / "rows.jsonl").write_bytes(to_lines([*rows, *rows]))

    assert read_results(tmp_path / "rows.jsonl") == [*rows, *rows]


def dynamoc(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynamoc", "results", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_imports_and_judges(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "vllm-bench.json", tmp_path)
    out = tmp_path / "rows.jsonl"
    done = dynamoc("import", str(tmp_path / "vllm-bench.json"), "-o", str(out))
    judged = dynamoc("judge", str(out))

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(out.read_text())["tool"] == "vllm-bench"
    assert judged.returncode == 1
    assert judged.stdout.splitlines() == [
        "suspect: c16 (vllm-bench)",
        "  errors: 4 of 100 requests failed, 4.0% > 1% (suspect)",
    ]


def test_the_command_says_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    done = dynamoc("import", str(tmp_path / "x.json"))

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path / 'x.json'}: not a result of a known tool (AIPerf, ")


def test_what_aiperf_wrote_of_a_real_run_is_what_it_printed() -> None:
    """AIPerf 0.13.0, 80 requests of 256 + 32 tokens, 8 in flight, to two workers in simulated time."""
    [row] = read_results(FOLDER / "produced/aiperf-0.13.0.json")
    assert row.ttft_ms is not None and row.tpot_ms is not None and row.e2e_ms is not None
    shown = (row.ttft_ms.avg, row.ttft_ms.p50, row.ttft_ms.p90, row.ttft_ms.p99, row.tpot_ms.avg, row.tpot_ms.p99)

    assert [round(value, 2) for value in shown if value is not None] == [57.52, 46.96, 107.80, 111.88, 6.33, 6.60]
    assert (round(row.e2e_ms.avg, 2), row.e2e_ms.p50) == (253.61, 242.5079)
    assert (round(row.requests_per_s, 2), round(row.output_tokens_per_s, 2)) == (29.26, 936.35)
    assert (round(row.input_tokens_per_s, 2), round(row.duration_s, 2)) == (7490.79, 2.73)
    assert (row.isl, row.osl, row.completed, row.failed, row.warmup_requests) == (256.0, 32.0, 80, 0, 8)
    assert judge(row).standing is Standing.VALID


def test_what_guidellm_wrote_of_a_real_run_is_what_it_printed() -> None:
    """guidellm 0.8.1, 40 requests of 64 + 16 tokens, 4 streams, to the same pipeline."""
    [row] = read_results(FOLDER / "produced/guidellm-0.8.1.json")
    assert row.ttft_ms is not None and row.tpot_ms is not None and row.e2e_ms is not None
    shown = (row.ttft_ms.avg, row.ttft_ms.p50, row.ttft_ms.p95, row.tpot_ms.avg, row.tpot_ms.p50, row.tpot_ms.p95)

    assert [round(value, 1) for value in shown if value is not None] == [96.2, 95.4, 125.8, 6.4, 6.3, 8.2]
    assert (round(row.requests_per_s, 1), round(row.output_tokens_per_s, 1)) == (18.4, 293.6)
    assert row.effective_concurrency is not None and round(row.effective_concurrency, 1) == 3.5
    assert [reason.rule for reason in judge(row).reasons] == ["warm-up"]
