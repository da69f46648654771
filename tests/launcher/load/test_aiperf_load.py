"""AIPerf as a load tool: the real one where it is installed, and stand-ins for what it does at its worst."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_server import small_server, well
from tokenizers import Tokenizer, models, pre_tokenizers

from dynamoc.launcher.load.generator import load_generator
from dynamoc.launcher.load.point import LoadError, LoadPoint, Target, Trace
from dynamoc.launcher.load.run import row_of
from dynamoc.launcher.results.importers.registry import read_results
from dynamoc.launcher.results.verdict import Standing, judge
from dynamoc.runtime import environment

INSTALLED = Path(environment.read("DYNAMOC_AIPERF")).expanduser().is_file()
FACTS = {"run": "r", "model": "small", "tool": "aiperf", "tool_version": "1"}
needs_aiperf = pytest.mark.skipif(not INSTALLED, reason="AIPerf is not installed: run `make aiperf`")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [a + b + c for a in "bcdfghklmnprst" for b in "aeiou" for c in "lmnrst"]
    vocabulary = {word: number for number, word in enumerate(["<unk>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def point(**changes: Any) -> LoadPoint:
    fields: dict[str, Any] = {
        "id": "c4",
        "isl": 5,
        "osl": 6,
        "requests": 40,
        "warmup_requests": 4,
        "concurrency": 4,
        "rate": None,
        "shared_prefix": 0.0,
        "seed": 1,
        "deadline_s": 90.0,
    }
    return LoadPoint(**{**fields, **changes})


@needs_aiperf
@pytest.mark.timeout(150)
def test_the_real_one_makes_the_load_and_its_records_agree_with_its_summary(tokenizer: Path, tmp_path: Path) -> None:
    async def paced(exchange: Any) -> None:
        await well(exchange, 0.01)

    with small_server(paced) as server:
        tool = load_generator("aiperf")
        measured = tool.run(point(), Target(server.url, "small", tokenizer), tmp_path, 90.0)
    row = row_of(point(), measured, FACTS)
    [summary] = read_results(tmp_path / "aiperf")

    assert tool.version == "0.13.0"
    assert measured.complete
    assert (row.completed, row.failed, row.warmup_requests) == (40, 0, 4)
    assert len(server.bodies) == 44
    assert all(body["max_tokens"] == 6 and body["ignore_eos"] is True for body in server.bodies)
    assert server.most_in_flight == 4
    assert row.ttft_ms is not None and row.tpot_ms is not None and row.itl_ms is not None and row.e2e_ms is not None
    assert summary.ttft_ms is not None and summary.tpot_ms is not None and summary.itl_ms is not None
    assert row.ttft_ms.p95 == pytest.approx(summary.ttft_ms.p95, abs=0.01)
    assert row.tpot_ms.avg == pytest.approx(summary.tpot_ms.avg, abs=0.01)
    assert row.itl_ms.p99 == pytest.approx(summary.itl_ms.p99, abs=0.05)
    assert row.output_tokens_per_s == pytest.approx(summary.output_tokens_per_s, rel=0.02)
    assert 9 < row.tpot_ms.avg < 40


@needs_aiperf
@pytest.mark.timeout(150)
def test_the_real_one_without_a_server_fails_every_request(tokenizer: Path, tmp_path: Path) -> None:
    with small_server() as server:
        pass
    target = Target(server.url, "small", tokenizer)
    row = row_of(point(), load_generator("aiperf").run(point(), target, tmp_path, 90.0), FACTS)

    assert (row.completed, row.failed) == (0, 40)
    assert judge(row).standing is Standing.INVALID
    assert read_results(tmp_path / "aiperf")[0].failed == 40


@needs_aiperf
@pytest.mark.timeout(150)
def test_the_real_one_replays_a_trace(tokenizer: Path, tmp_path: Path) -> None:
    line = '{"timestamp": %d, "input_length": 6, "output_length": 3, "hash_ids": [1, %d]}\n'
    (tmp_path / "t.jsonl").write_text("".join(line % (100 * n, 10 + n) for n in range(12)))
    at = point(trace=Trace(path=str(tmp_path / "t.jsonl"), block_tokens=4), isl=8, requests=None, concurrency=None)
    folder = tmp_path / "out"
    folder.mkdir()
    with small_server() as server:
        measured = load_generator("aiperf").run(at, Target(server.url, "small", tokenizer), folder, 90.0)

    assert measured.complete
    assert [record.output_tokens for record in measured.records] == [3] * 12
    assert 0.9 < measured.records[-1].started - measured.records[0].started < 1.6
    assert measured.warmup_requests == 4
    assert [body["max_tokens"] for body in server.bodies] == [6] * 4 + [3] * 12, "the warm-up is none of the trace"


STAND_IN = """#!{python}
import pathlib, subprocess, sys, time
words = sys.argv[1:]
if words == ["--version"]:
    print("9.9")
elif words[:2] == ["config", "validate"]:
    sys.exit({refuses})
else:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    pathlib.Path({pids!r}).write_text(str(child.pid))
    {then}
"""


def stand_in(folder: Path, then: str, refuses: str = "0") -> Path:
    program = folder / "aiperf"
    text = STAND_IN.format(python=sys.executable, pids=str(folder / "child"), then=then, refuses=refuses)
    program.write_text(text)
    program.chmod(0o755)
    return program


def test_one_that_hangs_is_ended_with_all_it_started(tokenizer: Path, tmp_path: Path) -> None:
    program = stand_in(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)")
    folder = tmp_path / "out"
    folder.mkdir()
    tool = load_generator("aiperf", str(program))
    began = time.monotonic()
    measured = tool.run(point(), Target("http://127.0.0.1:1", "small", tokenizer), folder, 1.0)
    child = int((tmp_path / "child").read_text())

    assert tool.version == "9.9"
    assert not measured.complete
    assert time.monotonic() - began < 20
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_that_fails_before_the_load_is_an_error_with_its_words(tokenizer: Path, tmp_path: Path) -> None:
    program = stand_in(tmp_path, "child.kill(); sys.exit('2026 - manager - ERROR - no such tokenizer')")
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadError, match="AIPerf ended with 1 and wrote no records: no such tokenizer; see "):
        load_generator("aiperf", str(program)).run(
            point(), Target("http://127.0.0.1:1", "s", tokenizer), tmp_path / "out", 9.0
        )


def test_a_configuration_that_it_refuses_is_an_error_with_its_words(tokenizer: Path, tmp_path: Path) -> None:
    program = stand_in(tmp_path, "pass", refuses="'phases.0.rate: must be positive'")
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadError, match=r"`aiperf config` ended with 1: phases\.0\.rate: must be positive"):
        load_generator("aiperf", str(program)).run(
            point(), Target("http://127.0.0.1:1", "s", tokenizer), tmp_path / "out", 9.0
        )


def test_one_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOC_AIPERF", str(tmp_path / "none"))
    with pytest.raises(LoadError, match=r"there is no AIPerf at .*/none; `make aiperf` installs it"):
        load_generator("aiperf")
    with pytest.raises(LoadError, match="the built-in load tool is no program of its own"):
        load_generator("builtin", os.devnull)
