"""The built-in load tool against a real server, which answers well or not."""

from __future__ import annotations

import asyncio
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_server import Exchange, SmallServer, small_server, well
from tokenizers import Tokenizer, models, pre_tokenizers

from dynamoc.launcher.load.builtin import GENERATOR
from dynamoc.launcher.load.generator import GENERATORS, Measured, load_generator
from dynamoc.launcher.load.point import LoadError, LoadPoint, RequestRecord, Target
from dynamoc.launcher.load.prompts import Prompts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tokenizer of a few hundred words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b for a in letters for b in letters[:20]]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="aa"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def point(**changes: Any) -> LoadPoint:
    fields: dict[str, Any] = {
        "id": "c2",
        "isl": 5,
        "osl": 4,
        "requests": 6,
        "warmup_requests": 0,
        "concurrency": 2,
        "rate": None,
        "shared_prefix": 0.0,
        "seed": 1,
        "deadline_s": 30.0,
    }
    return LoadPoint(**{**fields, **changes})


def measure(
    server: SmallServer, tokenizer: Path, folder: Path, deadline_s: float = 30.0, **changes: Any
) -> tuple[Measured, tuple[RequestRecord, ...]]:
    target = Target(server.url, "small", tokenizer)
    measured = GENERATOR.run(point(**changes), target, folder, deadline_s)
    return measured, measured.records


def test_every_registered_generator_is_there_or_says_why() -> None:
    assert load_generator("builtin") is GENERATOR
    assert "builtin" in GENERATORS
    with pytest.raises(LoadError, match="there is no load tool `wrk` here; this version has `builtin`"):
        load_generator("wrk")


def test_as_many_in_flight_as_asked_on_connections_that_are_kept(tokenizer: Path, tmp_path: Path) -> None:
    async def slowly(exchange: Exchange) -> None:
        await well(exchange, 0.01)

    with small_server(slowly) as server:
        measured, records = measure(server, tokenizer, tmp_path, requests=9, concurrency=3)

    assert measured.complete
    assert server.most_in_flight == 3
    assert server.connections == 3
    assert [record.index for record in records] == list(range(9))
    assert all(record.error is None and record.output_tokens == 4 for record in records)
    assert all(len(record.token_ms) == 4 and record.ttft_ms == record.token_ms[0] for record in records)
    assert 9 < statistics.median(r.token_ms[1] - r.token_ms[0] for r in records) < 200


def test_requests_are_exact_and_no_two_prompts_are_alike(tokenizer: Path, tmp_path: Path) -> None:
    with small_server() as server:
        measure(server, tokenizer, tmp_path, isl=40, requests=8, warmup_requests=3)
    made = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    prompts = [body["prompt"] for body in server.bodies]

    assert len(prompts) == 11, "the warm-up is made too"
    assert len(set(prompts)) == 11
    assert {len(made.encode(prompt).ids) for prompt in prompts} == {40}
    assert all(body["ignore_eos"] and body["max_tokens"] == 4 and body["stream"] for body in server.bodies)


def test_a_seed_gives_the_same_prompts_and_a_shared_prefix_is_shared(tokenizer: Path) -> None:
    one = Prompts(point(isl=40, shared_prefix=0.5), tokenizer).make("main", 4)
    again = Prompts(point(isl=40, shared_prefix=0.5), tokenizer).make("main", 4)
    other = Prompts(point(isl=40, shared_prefix=0.5, seed=2), tokenizer).make("main", 4)

    assert one == again != other
    assert len({" ".join(prompt.split()[:20]) for prompt in one}) == 1
    assert len({prompt.split()[20] + prompt.split()[21] for prompt in one}) > 1


def test_arrivals_keep_their_rate_whatever_the_answers_take(tokenizer: Path, tmp_path: Path) -> None:
    async def slowly(exchange: Exchange) -> None:
        await well(exchange, 0.05)

    with small_server(slowly) as server:
        measured, records = measure(server, tokenizer, tmp_path, requests=40, concurrency=None, rate=80.0)
    span = records[-1].started - records[0].started

    assert measured.complete
    assert server.most_in_flight > 5, "an open loop does not wait for answers"
    assert 0.2 < span < 1.2, "40 arrivals at 80 a second"
    assert not any(record.error for record in records)


def test_an_arrival_that_has_to_wait_is_timed_from_when_it_was_due(tokenizer: Path, tmp_path: Path) -> None:
    async def slowly(exchange: Exchange) -> None:
        await well(exchange, 0.02)

    with small_server(slowly) as server:
        _, records = measure(server, tokenizer, tmp_path, requests=12, concurrency=1, rate=1000.0)

    assert server.most_in_flight == 1
    assert max(r.ttft_ms or 0 for r in records) > 500, "the queue before the client counts"


async def refuse(exchange: Exchange) -> None:
    said = b'{"error": {"message": "the queue is full"}}'
    exchange.head("503 Service Unavailable", f"content-length: {len(said)}")
    exchange.writer.write(said)


async def too_short(exchange: Exchange) -> None:
    exchange.head()
    exchange.token()
    exchange.end(1)


async def broken_off(exchange: Exchange) -> None:
    exchange.head()
    exchange.token()
    exchange.close = True


async def failing_midway(exchange: Exchange) -> None:
    exchange.head()
    exchange.token()
    exchange.event({"error": {"message": "a worker was lost"}})
    exchange.chunk(b"")


async def without_end(exchange: Exchange) -> None:
    exchange.head()
    exchange.token()
    exchange.chunk(b"")


async def silent(exchange: Exchange) -> None:
    exchange.head()
    exchange.end(exchange.body["max_tokens"])


async def garbage(exchange: Exchange) -> None:
    exchange.writer.write(b"hello\r\n\r\n")
    exchange.close = True


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (refuse, "status 503: .*the queue is full"),
        (too_short, "1 tokens, 4 were asked for"),
        (broken_off, "closed the connection before the answer was complete"),
        (failing_midway, "a worker was lost"),
        (without_end, "the stream ended before its end"),
        (silent, "no text"),
        (garbage, "not an answer in HTTP"),
    ],
)
def test_what_goes_wrong_with_a_request_is_in_its_record(
    behave: Callable[[Exchange], Any], error: str, tokenizer: Path, tmp_path: Path
) -> None:
    with small_server(behave) as server:
        measured, records = measure(server, tokenizer, tmp_path, requests=4)

    assert measured.complete
    assert len(records) == 4
    for record in records:
        assert record.error is not None
        assert re.search(error, record.error)


def test_one_bad_request_spoils_no_other(tokenizer: Path, tmp_path: Path) -> None:
    async def now_and_then(exchange: Exchange) -> None:
        await (broken_off if exchange.number % 3 == 0 else well)(exchange)

    with small_server(now_and_then) as server:
        _, records = measure(server, tokenizer, tmp_path, requests=9, concurrency=1)

    assert [record.error is not None for record in records] == [True, False, False] * 3


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(tokenizer: Path, tmp_path: Path) -> None:
    async def once(exchange: Exchange) -> None:
        await well(exchange)
        exchange.close = True  # without saying so

    with small_server(once) as server:
        _, records = measure(server, tokenizer, tmp_path, requests=5, concurrency=1)

    assert not any(record.error for record in records)
    assert server.connections == 5


def test_nobody_there_is_an_error_of_every_request(tokenizer: Path, tmp_path: Path) -> None:
    with small_server() as server:
        pass
    _, records = measure(server, tokenizer, tmp_path, requests=3)
    assert all(record.error and "refused" in record.error.lower() for record in records)


def test_nothing_lasts_longer_than_its_deadline(tokenizer: Path, tmp_path: Path) -> None:
    async def never(exchange: Exchange) -> None:
        exchange.head()
        exchange.token()
        await exchange.writer.drain()
        await asyncio.sleep(60)

    with small_server(never) as server:
        measured, records = measure(server, tokenizer, tmp_path, deadline_s=1.0, requests=6)

    assert not measured.complete
    assert measured.ended - measured.started < 5
    assert [record.error for record in records] == ["not answered before the deadline of the load point"] * 2
    assert all(record.ttft_ms is not None for record in records), "what came is kept"


def test_a_folder_without_a_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no tokenizer in"):
        Prompts(point(), tmp_path)
