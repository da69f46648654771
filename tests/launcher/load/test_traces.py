"""Traces are read as they come, checked line by line, and replayed by their times with what they share."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_server import small_server
from tokenizers import Tokenizer, models, pre_tokenizers

from dynamoc.launcher.load.aiperf_config import aiperf_config
from dynamoc.launcher.load.asks import asks_of_trace
from dynamoc.launcher.load.builtin import GENERATOR
from dynamoc.launcher.load.client_limit import client_limit
from dynamoc.launcher.load.point import LoadError, LoadPoint, RequestRecord, Target, Trace
from dynamoc.launcher.load.prompts import Prompts, drawn
from dynamoc.launcher.load.trace import count_requests


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [a + b for a in "bcdfghklmnprst" for b in "aeiou"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="ba"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def point(path: Path, block_tokens: int = 4, speedup: float = 1.0, **changes: Any) -> LoadPoint:
    fields: dict[str, Any] = {
        "id": "trace",
        "isl": 64,
        "osl": 8,
        "requests": None,
        "warmup_requests": 0,
        "concurrency": None,
        "rate": None,
        "shared_prefix": 0.0,
        "seed": 1,
        "deadline_s": 30.0,
        "trace": Trace(path=str(path), block_tokens=block_tokens, speedup=speedup),
    }
    return LoadPoint(**{**fields, **changes})


def line(at: float, isl: int, osl: int, hashes: list[int] | None = None, **more: Any) -> str:
    fields = {"timestamp": at, "input_length": isl, "output_length": osl, "hash_ids": hashes or [], **more}
    return json.dumps(fields) + "\n"


def count(at: LoadPoint) -> int:
    assert at.trace is not None
    return count_requests(at, at.trace)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a trace without a request"),
        ("{\n", r":1: not a request of a trace in Mooncake's format: .*truncated"),
        (line(0, 8, 2, [1, 2]) + '{"timestamp": 1, "input_length": 8}\n', r":2: not a request .*output_length"),
        (line(0, 0, 2), r":1: not a request .*>= 1"),
        (line(0, 8, 2, session_id="a"), r":1: not a request .*unknown field `session_id`"),
        (line(5, 8, 2) + line(4, 8, 2), r":2: `timestamp` 4 is before that of the line above, 5"),
        (line(0, 65, 2), r":1: `input_length` 65 > 64, the `isl` of the load; raise `isl`"),
        (line(0, 8, 9), r":1: `output_length` 9 > 8, the `osl` of the load; raise `osl`"),
        (line(0, 9, 2, [1, 2]), r":1: 2 `hash_ids`, but 9 tokens are 3 blocks of 4; is `block_tokens` another\?"),
    ],
)
def test_a_line_that_is_no_request_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(LoadError, match=said):
        count(point(tmp_path / "t.jsonl"))


def test_a_trace_that_is_not_there_or_too_short_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"the trace cannot be read: .*No such file"):
        count(point(tmp_path / "none.jsonl"))
    (tmp_path / "t.jsonl").write_text(line(0, 8, 2))
    with pytest.raises(LoadError, match="1 requests, and the load asks for 2"):
        count(point(tmp_path / "t.jsonl", requests=2))


def test_a_long_trace_is_read_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    """The rest of the file is never looked at."""
    (tmp_path / "t.jsonl").write_text("".join(line(n, 8, 2) for n in range(500)) + "garbage\n")
    assert count(point(tmp_path / "t.jsonl", requests=500)) == 500


def test_prompts_share_what_their_hashes_share(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        line(0, 12, 2, [7, 8, 9]) + line(1, 10, 2, [7, 8, 11]) + line(2, 12, 3, [7, 12, 9]) + line(3, 12, 2)
    )
    at = point(tmp_path / "t.jsonl")
    assert at.trace is not None
    asks = list(asks_of_trace(at, at.trace, Prompts(at, tokenizer)))
    words = [ask.prompt.split() for ask in asks]

    assert [len(each) for each in words] == [12, 10, 12, 12]
    assert [ask.osl for ask in asks] == [2, 2, 3, 2]
    assert words[0][:8] == words[1][:8]
    assert words[0][:4] == words[2][:4]
    assert words[0][8:] == words[2][8:], "the same hash is the same block, wherever it is"
    assert words[0][4:8] != words[2][4:8]
    assert words[3] not in words[:3]


def test_a_replay_keeps_times_and_lengths(tokenizer: Path, tmp_path: Path) -> None:
    dice = random.Random(5)
    times = sorted(dice.randrange(1000, 2000) for _ in range(80))
    lengths = [(dice.randrange(1, 64), dice.randrange(1, 8)) for _ in times]
    (tmp_path / "t.jsonl").write_text("".join(line(t, i, o) for t, (i, o) in zip(times, lengths, strict=True)))
    with small_server() as server:
        target = Target(server.url, "small", tokenizer)
        measured = GENERATOR.run(point(tmp_path / "t.jsonl", speedup=2.0), target, tmp_path, 30.0)

    assert measured.complete and measured.requests == 80
    assert not any(record.error for record in measured.records)
    assert [record.output_tokens for record in measured.records] == [o for _, o in lengths]
    assert sorted(len(body["prompt"].split()) for body in server.bodies) == sorted(i for i, _ in lengths)
    began = measured.records[0].started
    late = [r.started - began - (t - times[0]) / 2000 for r, t in zip(measured.records, times, strict=True)]
    assert max(map(abs, late)) < 0.02, "the clock of a request starts when it is due"


def test_groups_of_prompts_share_their_prefix_and_lengths_vary_within_bounds(tokenizer: Path) -> None:
    at = point(Path("x"), trace=None, requests=60, isl=40, shared_prefix=0.5, prefixes=3, isl_stddev=4.0)
    prompts = [prompt.split() for prompt in Prompts(at, tokenizer).make("main", 60)]

    assert len({tuple(prompt[:20]) for prompt in prompts}) == 3
    assert len({tuple(prompt) for prompt in prompts}) == 60
    assert {len(prompt) for prompt in prompts} <= set(range(32, 49))
    assert len({len(prompt) for prompt in prompts}) > 5
    assert drawn(random.Random(0), 1, 100.0) >= 1


def test_aiperf_is_told_the_same_load(tmp_path: Path) -> None:
    target = Target("http://127.0.0.1:8000", "small", tmp_path)
    closed = point(tmp_path, trace=None, requests=40, concurrency=4, warmup_requests=6, shared_prefix=0.5, prefixes=2)
    open_ = point(tmp_path, trace=None, requests=40, rate=2.5, isl_stddev=3.0)
    replay = point(tmp_path, block_tokens=16)
    texts = [aiperf_config(at, target, tmp_path / "t" if at.trace else None, 40) for at in (closed, open_, replay)]
    told = [yaml.safe_load(text)["benchmark"] for text in texts]

    assert told[0]["datasets"][0]["prompts"] == {"isl": 32, "osl": 8}
    assert told[0]["datasets"][0]["prefix_prompts"] == {"pool_size": 2, "length": 32}
    assert told[0]["datasets"][0]["entries"] == 46
    warmup, main = told[0]["phases"]
    assert (warmup["kind"], warmup["requests"], warmup["concurrency"]) == ("warmup", 6, 4)
    assert (main["type"], main["requests"], main["concurrency"]) == ("concurrency", 40, 4)
    assert told[1]["phases"] == [{"name": "profiling", "type": "poisson", "rate": 2.5, "requests": 40}]
    assert told[1]["datasets"][0]["prompts"]["isl"] == {"mean": 64, "stddev": 3.0, "min": 58, "max": 70}
    assert told[2]["phases"] == [{"name": "profiling", "type": "fixed_schedule", "auto_offset": True}]
    assert told[2]["datasets"][0]["format"] == "mooncake_trace"
    assert told[2]["datasets"][0]["block_size"] == 16
    assert all(each["endpoint"]["use_server_token_count"] for each in told)
    assert all(not each["gpu_telemetry"]["enabled"] for each in told)


def record(number: int, started: float, e2e_ms: float = 1000.0, ttft_ms: float = 100.0) -> RequestRecord:
    times = {"started": started, "e2e_ms": e2e_ms, "ttft_ms": ttft_ms}
    return RequestRecord(index=number, input_tokens=1, output_tokens=1, **times)


def test_a_client_is_the_limit_by_what_it_did() -> None:
    closed = point(Path("x"), trace=None, requests=20, concurrency=4)
    full = [record(n, n // 4) for n in range(20)]
    half = [record(n, n // 2) for n in range(20)]
    few = half[:10]

    assert client_limit(closed, full, (), 0.5) is None
    assert client_limit(closed, half, (), 0.5) == "2 requests in flight (p50) < 0.9 x 4 asked for"
    assert client_limit(closed, few, (), 0.5) is None, "so few that filling and emptying is most of it"
    assert client_limit(closed, full, (), 0.95) == "its event loop was busy for 95% of the time > 90%"
    assert (
        client_limit(closed, full, [0.2] * 20, None)
        == "requests were sent 200.0 ms late (p95) > TTFT of 100.0 ms (p50)"
    )
    assert client_limit(closed, [], (), 1.0) is None, "nothing was answered: that is no matter of the client's"
