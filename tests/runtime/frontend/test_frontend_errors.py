"""Wrong requests, limits and refusals: OpenAI's error object, the right status, and never a traceback."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from peers import CONTEXT, MODEL, Stack, events, running

USER = [{"role": "user", "content": "hello"}]
CHAT = {"model": MODEL, "messages": USER}

WRONG_CHATS: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "gpt-9"}, 404, "model", "gpt-9"),
    ({"temprature": 1}, 400, "temprature", "did you mean `temperature`"),
    ({"messages": []}, 400, "messages", "length >= 1"),
    ({"messages": [{"role": "user", "contnt": "x"}]}, 400, "messages[0].contnt", "did you mean `content`"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role", "robot"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role", "tool"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content", "text"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, 400, "messages[0].tool_calls", "not supported"),
    ({"temperature": 2.1}, 400, "temperature", "<= 2.0"),
    ({"temperature": "hot"}, 400, "temperature", "got `str`"),
    ({"top_p": 0}, 400, "top_p", "> 0.0"),
    ({"max_tokens": 0}, 400, "max_tokens", ">= 1"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, 400, "max_tokens", "not both"),
    ({"max_tokens": CONTEXT}, 400, "max_tokens", str(CONTEXT)),
    ({"messages": [{"role": "user", "content": "hello " * CONTEXT}]}, 400, "messages", str(CONTEXT)),
    ({"n": 0}, 400, "n", ">= 1"),
    ({"n": 129}, 400, "n", "<= 128"),
    ({"stop": [""]}, 400, "stop[0]", "length >= 1"),
    ({"stop": ["x"] * 17}, 400, "stop", "length <= 16"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "needs `logprobs`"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "<= 20"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "needs `stream`"),
    ({"stream": True, "stream_options": {"usage": True}}, 400, "stream_options.usage", "include_usage"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
    ({"response_format": {"type": "json_schema"}}, 400, "response_format", "not supported"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias", "not supported"),
    ({"min_p": 0.1}, 400, "min_p", "not supported"),
    ({"audio": {}}, 400, "audio", "not supported"),
    ({"seed": 2**63}, 400, "seed", "<="),
    ({"presence_penalty": 3}, 400, "presence_penalty", "<= 2.0"),
]

WRONG_COMPLETIONS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": [[]]}, "prompt", "no tokens"),
    ({"prompt": [1, "a"]}, "prompt", "token ids"),
    ({"prompt": [[1], "a"]}, "prompt", "token ids"),
    ({"prompt": [True]}, "prompt", "token ids"),
    ({"prompt": [-1]}, "prompt", "from 0 to 315"),
    ({"prompt": [316]}, "prompt", "from 0 to 315"),
    ({"prompt": 5}, "prompt", "got `int`"),
    ({"prompt": ["a"] * 65, "n": 2}, "n", "128"),
    ({"prompt": "a", "logprobs": 6}, "logprobs", "<= 5"),
    ({"prompt": "a", "logprobs": 1, "echo": True}, "logprobs", "echo"),
    ({"prompt": "a", "best_of": 2}, "best_of", "not supported"),
    ({"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
    ({}, "prompt", "missing field"),
]


def test_wrong_requests_name_what_is_wrong(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for change, status, param, word in WRONG_CHATS:
                response = await stack.client.post("/v1/chat/completions", json=CHAT | change)
                check(response.status_code, response.json(), status, param, word)
            for body, param, word in WRONG_COMPLETIONS:
                response = await stack.client.post("/v1/completions", json={"model": MODEL, **body})
                check(response.status_code, response.json(), 400, param, word)
            assert not stack.router.asked

    def check(status: int, body: dict[str, Any], expected: int, param: str | None, word: str) -> None:
        error = body["error"]
        assert (status, error["param"]) == (expected, param), error
        assert word in error["message"], error
        assert error["type"] == "invalid_request_error"
        assert set(error) == {"message", "type", "param", "code"}

    asyncio.run(scenario())


def test_a_too_long_prompt_has_openai_s_code(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            response = await stack.chat("hello " * CONTEXT)

            assert response.json()["error"]["code"] == "context_length_exceeded"

    asyncio.run(scenario())


NEUTRAL: dict[str, Any] = {
    "tools": [], "tool_choice": "auto", "logit_bias": {}, "response_format": {"type": "text"}, "modalities": ["text"],
    "user": "someone", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": True,
    "temperature": None, "top_p": None, "stop": None, "n": None, "seed": None, "stream": None, "logprobs": None,
    "frequency_penalty": 0, "min_tokens": 0, "repetition_penalty": 1.0, "reasoning_effort": None,
    "chat_template_kwargs": {"enable_thinking": False},
}  # fmt: skip


def test_fields_that_ask_for_nothing_are_accepted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for name, value in NEUTRAL.items():
                response = await stack.chat(**{name: value})
                assert response.status_code == 200, (name, response.text)

    asyncio.run(scenario())


def test_bodies_that_are_no_requests(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, max_body_bytes=1000) as stack:
            post = stack.client.post
            path = "/v1/chat/completions"
            json = {"content-type": "application/json"}

            async def chunks() -> Any:
                for _ in range(20):
                    yield b" " * 100

            for content in (b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"model": "\\ud800"}'):
                response = await post(path, content=content, headers=json)
                assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
            assert (await post(path, content=b" " * 1001, headers=json)).status_code == 413
            assert (await post(path, content=chunks(), headers=json)).status_code == 413
            assert (await post(path, content=b"{}", headers={"content-type": "text/plain"})).status_code == 415
            response = await stack.client.get(path)
            assert (response.status_code, response.headers["allow"]) == (405, "POST")
            for method, unknown, status in (("GET", "/v1/nothing", 404), ("POST", "/v1/models", 405)):
                response = await stack.client.request(method, unknown)
                assert (response.status_code, response.json()["error"]["type"]) == (status, "invalid_request_error")
            assert (await stack.client.get("/v1/models/gpt-9")).status_code == 404
            assert (await stack.chat()).status_code == 200

    asyncio.run(scenario())


def test_request_ids_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            given = await stack.client.post("/v1/completions", json={}, headers={"x-request-id": "mine-1"})
            strange = await stack.client.post("/v1/completions", json={}, headers={"x-request-id": "a b"})
            streamed = await stack.chat(stream=True)

            assert given.headers["x-request-id"] == "mine-1"
            assert strange.headers["x-request-id"] not in ("a b", "")
            assert len(streamed.headers["x-request-id"]) == 16

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        ("overloaded", 429, "overloaded"),
        ("no_worker", 503, "no_worker"),
        ("timeout", 503, "timeout"),
        ("too_long", 400, "context_length_exceeded"),
    ],
)
def test_the_router_s_refusals(tmp_path: Path, refusal: str, status: int, code: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            stack.router.refusal = refusal
            for stream in (False, True):
                response = await stack.chat(stream=stream)

                assert (response.status_code, response.json()["error"]["code"]) == (status, code)
                assert ("retry-after" in response.headers) == (status >= 429)

    asyncio.run(scenario())


def test_only_so_many_requests_run_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, max_concurrent_requests=3) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.02
            responses = await asyncio.gather(*(stack.chat(max_tokens=20, stream=True) for _ in range(8)))

            statuses = sorted(response.status_code for response in responses)
            assert statuses == [200] * 3 + [429] * 5
            assert all(len(events(r)) > 2 for r in responses if r.status_code == 200)
            assert all(r.headers["retry-after"] for r in responses if r.status_code == 429)
            assert (await stack.chat()).status_code == 200

    asyncio.run(scenario())


def test_health_says_who_is_missing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            everyone = stack.router.workers
            stack.router.workers = []
            assert await health(stack) == (503, "unavailable", ["w0", "w1"])
            stack.router.workers = everyone[:1]
            assert await health(stack) == (200, "degraded", ["w1"])
            stack.router.workers = everyone
            assert await health(stack) == (200, "ready", [])
            stack.router.workers = []
            assert await health(stack) == (503, "unavailable", ["w0", "w1"])

    async def health(stack: Stack) -> tuple[int, str, list[str]]:
        response = await stack.client.get("/health")
        return response.status_code, response.json()["status"], response.json()["missing"]

    asyncio.run(scenario())


def test_a_port_in_use_is_said_and_is_exit_status_1(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            second = await asyncio.create_subprocess_exec(
                *[
                    sys.executable,
                    "-m",
                    "dynamoc.runtime",
                    "frontend",
                    "--run-dir",
                    str(tmp_path),
                    "--name",
                    "frontend-0",
                ],
                stderr=asyncio.subprocess.PIPE,
            )
            _, stderr = await asyncio.wait_for(second.communicate(), 20)

            assert second.returncode == 1
            assert f"cannot bind 127.0.0.1:{stack.port}: Address already in use" in stderr.decode()
            assert "Traceback" not in stderr.decode()

    asyncio.run(scenario())
