"""What the tools wrote of real runs comes to the figures that they printed of them, within the printed rounding.

The runs: a prefill and a decode worker in simulated time behind our frontend; each tool's own program made the load.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamoc.launcher.results.importers.registry import read_results
from dynamoc.launcher.results.row import Row, Spread
from dynamoc.launcher.results.verdict import Standing, judge

FOLDER = Path(__file__).parents[2] / "golden/results/produced"
SERVED = sorted(path for path in FOLDER.glob("*.json*") if path.name.startswith(("vllm", "sglang")))
COUNTED = sorted(FOLDER.glob("genai-perf-*_genai_perf.json"))
SPREADS = {"TTFT": "ttft_ms", "TPOT": "tpot_ms", "ITL": "itl_ms", "E2EL": "e2e_ms", "E2E Latency": "e2e_ms"}
STATISTICS = {"Mean": "avg", "Median": "p50", "P50": "p50", "P90": "p90", "P95": "p95", "P99": "p99"}
FIGURES = {
    "Successful requests": "completed",
    "Failed requests": "failed",
    "Benchmark duration (s)": "duration_s",
    "Request throughput (req/s)": "requests_per_s",
    "Request goodput (req/s)": "goodput_per_s",
    "Input token throughput (tok/s)": "input_tokens_per_s",
    "Output token throughput (tok/s)": "output_tokens_per_s",
    "Maximum request concurrency": "concurrency",
    "Concurrency": "effective_concurrency",
}


def tables(text: str) -> Iterator[dict[str, float]]:
    """The numbers of each table of a serving benchmark, by what stands before them."""
    for part in text.split("Serving Benchmark Result")[1:]:
        found = (re.fullmatch(r"(.+?):\s+([\d.]+)\s*", line) for line in part.splitlines())
        yield {match[1]: float(match[2]) for match in found if match}


def told(row: Row, name: str) -> float | None:
    """What a row has for a printed name; None for what rows do not hold."""
    if name in FIGURES:
        value = getattr(row, FIGURES[name])
        assert value is not None, name
        return float(value)
    if name in ("Total input tokens", "Total generated tokens"):
        return (row.isl if "input" in name else row.osl) * row.completed
    statistic, _, metric = name.removesuffix(" (ms)").partition(" ")
    if statistic not in STATISTICS or metric not in SPREADS:
        return None
    spread = getattr(row, SPREADS[metric])
    assert spread is not None, name
    value = getattr(spread, STATISTICS[statistic])
    assert value is not None, name
    return float(value)


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.name)
def test_serving_benchmarks(path: Path) -> None:
    rows = read_results(path)
    printed = list(tables(path.with_suffix(".txt").read_text()))
    assert len(rows) == len(printed) > 0
    for row, table in zip(rows, printed, strict=True):
        held = {name: value for name, shown in table.items() if (value := told(row, name)) is not None}
        assert held == pytest.approx({name: table[name] for name in held}, abs=0.0052)
        assert len(held) >= 14, f"too little of the table was met: {sorted(held)}"
        assert judge(row).standing in (Standing.VALID, Standing.SUSPECT)


def test_serving_benchmarks_say_what_was_asked_for() -> None:
    full, *_ = read_results(FOLDER / "vllm-0.32.0.json")
    rated, spread = read_results(FOLDER / "vllm-0.32.0-appended.jsonl")
    lists, tagged = read_results(FOLDER / "sglang-0.5.23.jsonl")
    old, *_ = read_results(FOLDER / "sglang-0.4.6.post5.jsonl")

    assert (full.tool, full.point, full.concurrency, full.gpus_allocated) == ("vllm-bench", "full", 4, 2)
    assert (rated.point, rated.request_rate, rated.concurrency) == ("r12", 12.0, None)
    assert (spread.point, spread.request_rate, spread.e2e_ms) == ("c2", None, None)
    assert (lists.tool, lists.point, lists.isl_asked, lists.osl_asked) == ("sglang-bench", "c4", 128, 24)
    assert (tagged.point, tagged.request_rate, tagged.isl_asked) == ("rated", 12.0, None)
    assert (old.tool, old.point, old.isl_asked) == ("sglang-bench", "c4", 128), (
        "its backend was vLLM's, the tool is not"
    )


NAMES = {
    "Time To First Token (ms)": "ttft_ms",
    "Inter Token Latency (ms)": "tpot_ms",
    "Request Latency (ms)": "e2e_ms",
    "Output Sequence Length (tokens)": "osl",
    "Output Sequence Length": "osl",
    "Input Sequence Length (tokens)": "isl",
    "Input Sequence Length": "isl",
    "Output Token Throughput (tokens/sec)": "output_tokens_per_s",
    "Output Token Throughput (per sec)": "output_tokens_per_s",
    "Request Throughput (per sec)": "requests_per_s",
    "Request Goodput (per sec)": "goodput_per_s",
    "Request Count (count)": "completed",
}


@pytest.mark.parametrize("path", COUNTED, ids=lambda path: path.name)
def test_genai_perf(path: Path) -> None:
    [row] = read_results(path)
    lines = list(csv.reader(path.with_name(path.name.replace("_genai_perf.json", ".csv")).read_text().splitlines()))
    header, met = lines[0], 0
    for name, *values in (line for line in lines if line and line[0] in NAMES):
        found = getattr(row, NAMES[name])
        shown = dict(zip(header[1:], map(float, values), strict=False))
        if isinstance(found, Spread):
            held = {p: shown[p] for p in ("avg", "p50", "p90", "p95", "p99")}
            assert {p: getattr(found, p) for p in held} == pytest.approx(held, abs=0.0052), name
        else:
            assert found == pytest.approx(float(values[0]), abs=0.0052), name
        met += 1

    assert met >= 7
    assert (row.tool, row.model, row.concurrency) == ("genai-perf", "SmolLM2-135M-Instruct", 4)
    assert (row.isl_asked, row.osl_asked) == (64, 16)
    assert row.duration_s == pytest.approx(row.completed / row.requests_per_s, rel=1e-5)


def cells(text: str, strategy: str) -> list[float]:
    """The numbers of the last row of a strategy, over the lines it may be broken into."""
    row = re.split(r"={3,}", text[text.rindex(strategy) + len(strategy) :])[0]
    return [float(cell) for cell in re.findall(r"(?<![\w@])\d+\.\d+", row)]


def test_guidellm_before_its_reports_had_a_version() -> None:
    [row] = read_results(FOLDER / "guidellm-0.3.1.json")
    assert row.ttft_ms is not None and row.tpot_ms is not None and row.e2e_ms is not None
    shown = cells((FOLDER / "guidellm-0.3.1.txt").read_text(), "concurrent@4")
    e2e_s = (value / 1000 for value in spread(row.e2e_ms))

    assert row.effective_concurrency is not None
    assert [round(row.requests_per_s, 2), round(row.effective_concurrency, 2)] == shown[:2]
    assert [round(value, 2) for value in e2e_s] == shown[4:7]
    assert [round(value, 1) for value in itertools.chain(spread(row.ttft_ms), spread(row.tpot_ms))] == shown[7:13]
    assert row.output_tokens_per_s == pytest.approx(shown[2], rel=0.01), "its mean leaves out the time after a token"
    assert (row.model, row.isl_asked, row.osl_asked) == ("SmolLM2-135M-Instruct", 64, 16)
    assert (row.completed, row.failed, row.concurrency, row.warmup_requests) == (16, 0, 4, 0)


def test_guidellm_of_report_version_1() -> None:
    [row] = read_results(FOLDER / "guidellm-0.5.4.json")
    assert row.ttft_ms is not None and row.tpot_ms is not None and row.e2e_ms is not None
    text = (FOLDER / "guidellm-0.5.4.txt").read_text()
    latencies = cells(text[: text.index("Server Throughput")], "| concurrent |")
    served = cells(text, "| concurrent |")

    shown = [row.ttft_ms.p50, row.ttft_ms.p95, row.tpot_ms.p50, row.tpot_ms.p95]
    assert [round(value, 1) for value in shown if value is not None] == latencies[2:6]
    assert [round((value or 0) / 1000, 1) for value in (row.e2e_ms.p50, row.e2e_ms.p95)] == latencies[:2]
    assert row.effective_concurrency is not None
    assert [round(row.requests_per_s, 1), round(row.effective_concurrency, 1)] == [served[1], served[3]]
    assert (row.model, row.isl_asked, row.osl_asked) == ("SmolLM2-135M-Instruct", 64, 16)
    assert row.output_tokens_per_s == pytest.approx(16 * 16 / row.duration_s), "its own mean is of another span"


def spread(found: Spread) -> list[float]:
    assert found.p50 is not None and found.p99 is not None
    return [found.avg, found.p50, found.p99]
