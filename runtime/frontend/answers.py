"""Answers as bytes: server-sent events built from prebuilt prefixes, and whole JSON bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from dynamoc.runtime.frontend.choice import Entry
from dynamoc.runtime.frontend.errors import ApiError
from dynamoc.runtime.frontend.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"

# JSON has no infinity; OpenAI writes this for a token that could not have been chosen.
LOWEST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request, over all its prompts and choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def fields(self) -> dict[str, Any]:
        """As OpenAI spells it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """A whole choice."""

    index: int
    text: str
    entries: Sequence[Entry]
    finish: str


@dataclass(frozen=True, slots=True)
class Head:
    """What every piece of an answer repeats. With `usage`, pieces carry `usage: null` before the last one's."""

    id: str
    created: int
    model: str
    usage: bool

    def fields(self, object_name: str) -> dict[str, Any]:
        """The fields before `choices`."""
        return {"id": self.id, "object": object_name, "created": self.created, "model": self.model}


class Answer(Protocol):
    """How one endpoint spells its answers; an event carries `usage`, of its choice so far, if one is given."""

    def opening(self, index: int, usage: Usage | None) -> bytes:
        """The event before a choice's first text."""
        ...

    def delta(self, index: int, text: str, entries: Sequence[Entry], usage: Usage | None) -> bytes:
        """The event for a piece of text."""
        ...

    def closing(self, index: int, finish: str, usage: Usage | None) -> bytes:
        """The event that says why a choice ended."""
        ...

    def usage(self, usage: Usage) -> bytes:
        """The event with the token counts."""
        ...

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""
        ...


class ChatAnswer:
    """Of /v1/chat/completions."""

    def __init__(self, head: Head, tokenizer: Tokenizer) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._prefix = _prefix(head, "chat.completion.chunk")
        self._suffix = _suffix(head)
        self._before_text = _Prefixes(self._prefix, b'"delta":{"content":')
        self._after_text = b'},"logprobs":null,"finish_reason":null' + self._suffix

    def opening(self, index: int, usage: Usage | None) -> bytes:
        """Names the speaker."""
        return self._event(index, b'{"role":"assistant","content":""}', b"null", b"null", usage)

    def delta(self, index: int, text: str, entries: Sequence[Entry], usage: Usage | None) -> bytes:
        """More of what is said."""
        if not entries and usage is None:
            return self._before_text[index] + orjson.dumps(text) + self._after_text
        logprobs = orjson.dumps(self._logprobs(entries) if entries else None)
        return self._event(index, b'{"content":' + orjson.dumps(text) + b"}", logprobs, b"null", usage)

    def closing(self, index: int, finish: str, usage: Usage | None) -> bytes:
        """An empty delta with the reason."""
        return self._event(index, b"{}", b"null", orjson.dumps(finish), usage)

    def usage(self, usage: Usage) -> bytes:
        """An event without choices."""
        return _usage_event(self._head, "chat.completion.chunk", usage)

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """All messages."""
        listed = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self._logprobs(choice.entries) if choice.entries else None,
                "finish_reason": choice.finish,
            }
            for choice in choices
        ]
        return orjson.dumps({**self._head.fields("chat.completion"), "choices": listed, "usage": usage.fields()})

    def _event(self, index: int, delta: bytes, logprobs: bytes, finish: bytes, usage: Usage | None) -> bytes:
        return b'%b%d,"delta":%b,"logprobs":%b,"finish_reason":%b%b' % (
            self._prefix, index, delta, logprobs, finish, self._suffix if usage is None else _suffix_with(usage),
        )  # fmt: skip

    def _logprobs(self, entries: Sequence[Entry]) -> dict[str, Any]:
        content = [
            self._token(entry.token, entry.logprob.logprob)
            | {"top_logprobs": [self._token(token, logprob) for token, logprob in entry.logprob.top]}
            for entry in entries
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        text = data.decode(errors="replace")
        return {"token": text, "logprob": max(logprob, LOWEST_LOGPROB), "bytes": list(data)}


class CompletionAnswer:
    """Of /v1/completions. `echoes` are the prompts' texts by choice index, where they were asked for."""

    def __init__(self, head: Head, tokenizer: Tokenizer, echoes: Sequence[str]) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._prefix = _prefix(head, "text_completion")
        self._suffix = _suffix(head)
        self._before_text = _Prefixes(self._prefix, b'"text":')
        self._after_text = b',"logprobs":null,"finish_reason":null' + self._suffix

    def opening(self, index: int, usage: Usage | None) -> bytes:
        """The prompt, if it is to be echoed."""
        return self.delta(index, self._echoes[index], (), usage) if self._echoes else b""

    def delta(self, index: int, text: str, entries: Sequence[Entry], usage: Usage | None) -> bytes:
        """More text."""
        if not entries and usage is None:
            return self._before_text[index] + orjson.dumps(text) + self._after_text
        logprobs = orjson.dumps(self._logprobs(entries) if entries else None)
        return self._event(index, orjson.dumps(text), logprobs, b"null", usage)

    def closing(self, index: int, finish: str, usage: Usage | None) -> bytes:
        """No text, and the reason."""
        return self._event(index, b'""', b"null", orjson.dumps(finish), usage)

    def usage(self, usage: Usage) -> bytes:
        """An event without choices."""
        return _usage_event(self._head, "text_completion", usage)

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """All texts."""
        listed = [
            {
                "index": choice.index,
                "text": (self._echoes[choice.index] if self._echoes else "") + choice.text,
                "logprobs": self._logprobs(choice.entries) if choice.entries else None,
                "finish_reason": choice.finish,
            }
            for choice in choices
        ]
        return orjson.dumps({**self._head.fields("text_completion"), "choices": listed, "usage": usage.fields()})

    def _event(self, index: int, text: bytes, logprobs: bytes, finish: bytes, usage: Usage | None) -> bytes:
        return b'%b%d,"text":%b,"logprobs":%b,"finish_reason":%b%b' % (
            self._prefix, index, text, logprobs, finish, self._suffix if usage is None else _suffix_with(usage),
        )  # fmt: skip

    def _logprobs(self, entries: Sequence[Entry]) -> dict[str, Any]:
        return {
            "tokens": [self._text(entry.token) for entry in entries],
            "token_logprobs": [max(entry.logprob.logprob, LOWEST_LOGPROB) for entry in entries],
            "top_logprobs": [
                {self._text(token): max(logprob, LOWEST_LOGPROB) for token, logprob in entry.logprob.top}
                for entry in entries
            ],
            "text_offset": [entry.offset for entry in entries],
        }

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode(errors="replace")


def error_event(error: ApiError) -> bytes:
    """An error after the answer began: the status line is long gone."""
    return b"data: " + error.body() + b"\n\n" + DONE


class _Prefixes(dict[int, bytes]):
    """What comes before the text of a choice, made once per choice: the hot path only joins bytes."""

    def __init__(self, prefix: bytes, field: bytes) -> None:
        super().__init__()
        self._prefix = prefix
        self._field = field

    def __missing__(self, index: int) -> bytes:
        made = self[index] = b"%b%d,%b" % (self._prefix, index, self._field)
        return made


def _prefix(head: Head, object_name: str) -> bytes:
    return b"data: " + orjson.dumps(head.fields(object_name))[:-1] + b',"choices":[{"index":'


def _suffix(head: Head) -> bytes:
    return b'}],"usage":null}\n\n' if head.usage else b"}]}\n\n"


def _suffix_with(usage: Usage) -> bytes:
    return b'}],"usage":' + orjson.dumps(usage.fields()) + b"}\n\n"


def _usage_event(head: Head, object_name: str, usage: Usage) -> bytes:
    fields = {**head.fields(object_name), "choices": [], "usage": usage.fields()}
    return b"data: " + orjson.dumps(fields) + b"\n\n"
