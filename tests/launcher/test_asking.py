"""The streaming client against real servers that behave and misbehave."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dynamoc.launcher import asking
from dynamoc.launcher.asking import AskError, ask, chat_body, wait_healthy

BODY = chat_body("smol", "Be brief.", "Why?", 7)


def event(**fields):
    return f"data: {json.dumps(fields)}\n\n"


def delta(text, finish=None):
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


USAGE = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 32}}
GOOD = [
    event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]),
    delta("Be"), delta("cause"), delta(".", "stop"), event(choices=[], usage=USAGE), "data: [DONE]\n\n",
]  # fmt: skip


@contextmanager
def server(pieces, status=200, health=(200,)):
    """Answers POST with the pieces and GET /health with one status after the other; notes what was asked."""
    asked, healths = [], list(health)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece.encode())

        def do_GET(self):
            self.send_response(healths.pop(0) if len(healths) > 1 else healths[0])
            self.end_headers()
            self.wfile.write(b"no decode worker")

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", asked
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def test_an_answer_is_shown_as_it_arrives_and_counted():
    shown = []
    with server(GOOD) as (url, asked):
        answer = ask(url, BODY, shown.append)
    assert shown == ["Be", "cause", "."]
    assert (answer.text, answer.finish, answer.question) == ("Because.", "stop", "Why?")
    assert (answer.prompt_tokens, answer.cached_tokens, answer.output_tokens) == (40, 32, 3)
    assert 0 < answer.ttft_s <= answer.last_token_s
    assert answer.itl_s == pytest.approx((answer.last_token_s - answer.ttft_s) / 2)
    assert answer.tokens_per_s == pytest.approx(3 / answer.last_token_s)
    assert asked[0]["max_tokens"] == 7 and asked[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("pieces", "status", "said"),
    [
        ([json.dumps({"error": {"message": "no such model"}})], 404, "status 404: no such model"),
        (["it broke"], 500, "status 500: it broke"),
        ([GOOD[1], event(error={"message": "the worker died"})], 200, "the worker died"),
        (GOOD[:3], 200, r"ended before \[DONE\]"),
        ([*GOOD[:4], GOOD[-1]], 200, "without usage"),
        (["data: {nonsense\n\n"], 200, "broke off"),
    ],
)
def test_what_goes_wrong_is_said(pieces, status, said):
    with server(pieces, status) as (url, _), pytest.raises(AskError, match=said):
        ask(url, BODY, lambda _: None)


def test_nobody_there_is_said():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(AskError, match="refused"):
            ask(f"http://127.0.0.1:{unused.getsockname()[1]}", BODY, lambda _: None)


def test_health_is_waited_for_within_a_limit(monkeypatch):
    with server([], health=(503, 503, 200)) as (url, _):
        wait_healthy(url)
    monkeypatch.setattr(asking, "HEALTH_LIMIT_S", 0.3)
    with server([], health=(503,)) as (url, _), pytest.raises(AskError, match="no decode worker"):
        wait_healthy(url)
