"""OpenAI's request types, and what of them is refused rather than ignored.

A field we know but cannot honour is an error as soon as it would change the answer; so is a field nobody knows.
Beyond OpenAI's own: `top_k`, `ignore_eos`, `stop_token_ids`, `chat_template_kwargs`,
`stream_options.continuous_usage_stats`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dynamoc.runtime.frontend.errors import ApiError, bad_value

MAX_CHOICES = 128
MAX_STOPS = 16

Anything = Any | UnsetType
StopString = Annotated[str, Meta(min_length=1, max_length=512)]
TokenId = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    """`include_usage` asks for a last chunk with token counts, `continuous_usage_stats` for counts in the others."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class _Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints share."""

    model: str
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    ignore_eos: bool | None = None
    # Accepted without effect: they do not change the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    # RefusedError unless they ask for nothing.
    logit_bias: Anything = UNSET
    min_p: Anything = UNSET
    min_tokens: Anything = UNSET
    repetition_penalty: Anything = UNSET

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class Message(Struct, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation. Text only; the last five fields are there for clients that echo our answers."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Anything = UNSET
    function_call: Anything = UNSET
    audio: Anything = UNSET
    annotations: Anything = UNSET


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Anything = UNSET
    tool_choice: Anything = UNSET
    functions: Anything = UNSET
    function_call: Anything = UNSET
    response_format: Anything = UNSET
    modalities: Anything = UNSET
    audio: Anything = UNSET
    prediction: Anything = UNSET
    reasoning_effort: Anything = UNSET
    verbosity: Anything = UNSET
    web_search_options: Anything = UNSET


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Anything = UNSET
    suffix: Anything = UNSET


# What a field we cannot honour may hold, because it then asks for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "best_of": (1,),
    "suffix": ("",),
    "tool_calls": ([],),
    "annotations": ([],),
}

_ROLES = ("system", "developer", "user", "assistant")

AnyRequest = TypeVar("AnyRequest", ChatRequest, CompletionRequest)


def decode_request(body: bytes, form: type[AnyRequest]) -> AnyRequest:
    """The request, checked field by field; ApiError with OpenAI's words for what is wrong."""
    try:
        request = msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        raise _explain(str(error), form) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_value(f"the body is not JSON: {error}") from error
    _refuse_unsupported(request, "")
    if isinstance(request, ChatRequest):
        _check_chat(request)
    if request.stream_options is not None and not request.stream:
        raise bad_value("`stream_options` needs `stream`", "stream_options")
    return request


def template_messages(request: ChatRequest) -> list[dict[str, str]]:
    """The messages as chat templates expect them: each with one text. `developer` is the newer name of `system`."""
    messages = []
    for number, message in enumerate(request.messages):
        plain = {
            "role": "system" if message.role == "developer" else message.role,
            "content": _text(message.content, f"messages[{number}].content"),
        }
        if message.name is not None:
            plain["name"] = message.name
        messages.append(plain)
    return messages


def _check_chat(request: ChatRequest) -> None:
    for number, message in enumerate(request.messages):
        at = f"messages[{number}]"
        _refuse_unsupported(message, f"{at}.")
        if message.role not in _ROLES:
            known = ", ".join(f"`{role}`" for role in _ROLES)
            raise bad_value(f"role `{message.role}` is not supported; known: {known}", f"{at}.role")
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_value("`top_logprobs` needs `logprobs`", "top_logprobs")
    if None not in (request.max_tokens, request.max_completion_tokens):
        raise bad_value("give `max_tokens` or `max_completion_tokens`, not both", "max_tokens")


def _text(content: str | list[dict[str, Any]] | None, param: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str) or len(part) != 2:
            raise bad_value('only parts of the form {"type": "text", "text": …} are supported', param)
        texts.append(part["text"])
    return "\n".join(texts)


def _refuse_unsupported(struct: Struct, prefix: str) -> None:
    for name in struct.__struct_fields__:
        if name not in _NEUTRAL:
            continue
        value = getattr(struct, name)
        if value is not UNSET and value is not None and value not in _NEUTRAL[name]:
            param = prefix + name
            raise bad_value(f"`{param}` is not supported by this server", param, "unsupported_parameter")


def _explain(message: str, request: type[Struct]) -> ApiError:
    """msgspec's one sentence in OpenAI's shape."""
    unknown = re.search(r"unknown field `(.*?)`", message)
    path = re.search(r" - at `\$\.?(.*?)`$", message)
    place = path[1] if path else ""
    if unknown:
        return _unknown_field(unknown[1], place, request)
    missing = re.search(r"missing required field `(.*?)`", message)
    if missing:
        param = f"{place}.{missing[1]}" if place else missing[1]
        return bad_value(f"missing field `{param}`", param, "missing_required_parameter")
    fact = re.sub(r" - at `.*`$", "", message)
    return bad_value(f"invalid value for `{place}`: {fact[:1].lower()}{fact[1:]}" if place else fact, place or None)


def _unknown_field(name: str, place: str, request: type[Struct]) -> ApiError:
    struct = Message if place.startswith("messages") else StreamOptions if place == "stream_options" else request
    param = f"{place}.{name}" if place else name
    near = difflib.get_close_matches(name, struct.__struct_fields__, 1, cutoff=0.5)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return bad_value(f"unknown field `{param}`{hint}", param, "unknown_parameter")
