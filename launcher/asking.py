"""A small streaming client of the chat endpoint, with a clock."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

READ_TIMEOUT_S = 120.0
HEALTH_LIMIT_S = 15.0


class AskError(Exception):
    """The frontend cannot be reached, refused, or broke off; the message says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and its figures, as a client sees them; times in seconds."""

    question: str
    text: str
    finish: str | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_s: float
    last_token_s: float

    @property
    def itl_s(self) -> float | None:
        """Mean gap between tokens; None for fewer than two."""
        return (self.last_token_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the whole time from question to last token."""
        return self.output_tokens / self.last_token_s if self.last_token_s > 0 else 0.0


def wait_healthy(url: str) -> None:
    """Until the frontend says it can serve; AskError with its words if it does not in time."""
    deadline = time.monotonic() + HEALTH_LIMIT_S
    while True:
        connection = _connect(url)
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            said = response.read().decode(errors="replace")
            if response.status == http.client.OK:
                return
        except (OSError, http.client.HTTPException) as error:
            said = str(error)
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise AskError(f"{url}/health is not well after {HEALTH_LIMIT_S:g} s: {said}")
        time.sleep(0.1)


def ask(url: str, body: dict[str, Any], show: Callable[[str], None]) -> Answer:
    """Stream one chat completion; `show` gets each piece of text as it arrives."""
    connection = _connect(url)
    text, finish, usage, first, last = "", None, None, None, 0.0
    begin = time.perf_counter()
    try:
        for chunk in _chunks(connection, body):
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                finish = choice.get("finish_reason") or finish
                piece = choice.get("delta", {}).get("content") or ""
                if piece:
                    last = time.perf_counter() - begin
                    first = last if first is None else first
                    text += piece
                    show(piece)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AskError(f"{url} broke off: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if usage is None:
        raise AskError(f"{url} ended the stream without usage")
    return Answer(
        question=body["messages"][-1]["content"],
        text=text,
        finish=finish,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        output_tokens=usage["completion_tokens"],
        ttft_s=first or 0.0,
        last_token_s=last,
    )


def chat_body(model: str, system: str, question: str, max_tokens: int) -> dict[str, Any]:
    """A greedy, streamed chat request."""
    return {
        "model": model,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _connect(url: str) -> http.client.HTTPConnection:
    place = urlsplit(url)
    assert place.hostname is not None
    return http.client.HTTPConnection(place.hostname, place.port, timeout=READ_TIMEOUT_S)


def _chunks(connection: http.client.HTTPConnection, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of the stream, up to `[DONE]`."""
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise AskError(f"status {response.status}: {_error_text(response.read())}")
    for line in response:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise AskError(_error_text(data))
            yield chunk
    raise AskError("the stream ended before [DONE]")


def _error_text(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace")[:500]
