"""OpenAI's completions of servers that take token ids and also say them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.plane.messages import FinishReason, TokenLogprob
from dynamoc.runtime.served.api import Answer, Body, seed_of

ID_PREFIX = "token_id:"
FINISHES: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


def completion_body(request: EngineRequest, model: str) -> Body:
    """What is asked of every such server: the rest of one answer, streamed."""
    sampling = request.sampling
    body: Body = {
        "model": model,
        "prompt": request.tokens,
        "max_tokens": sampling.max_tokens - request.generated,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop_token_ids": sampling.stop_token_ids,
        "ignore_eos": sampling.ignore_eos,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.temperature > 0:
        body["seed"] = seed_of(request)
    return body


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = 0


class _Usage(msgspec.Struct):
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class CompletionReader:
    """Reads chunks of one choice. The last tokens wait for the usage that follows them, with what was cached."""

    def __init__(self, logprobs: int) -> None:
        self._alternatives = logprobs
        self._held: Answer | None = None

    def read(self, event: bytes) -> Answer | None:
        """What a chunk brings."""
        chunk = _decode(event)
        if chunk.error is not None:
            return Answer(error=bytes(chunk.error).decode(errors="replace"))
        if chunk.choices:
            answer = self._answer(chunk.choices[0])
            if answer.finish is None:
                return answer if answer.tokens or answer.error else None
            self._held = answer
        if self._held is None or chunk.usage is None or chunk.usage.prompt_tokens_details is None:
            return None
        held, self._held = self._held, None
        cached = chunk.usage.prompt_tokens_details.cached_tokens or 0
        return msgspec.structs.replace(held, cached_tokens=cached)

    def end(self) -> Answer | None:
        """The last tokens, where no usage said what was cached."""
        return self._held

    def _answer(self, choice: _Choice) -> Answer:
        tokens = tuple(choice.token_ids or ())
        if choice.finish_reason is None:
            return Answer(tokens, None, self._logprobs(choice))
        finish = FINISHES.get(choice.finish_reason)
        if finish is None:
            return Answer(error=f"the engine ended the request ({choice.finish_reason})")
        return Answer(tokens, finish, self._logprobs(choice))

    def _logprobs(self, choice: _Choice) -> tuple[TokenLogprob, ...]:
        said = choice.logprobs
        if said is None or self._alternatives < 0:
            return ()
        tops = said.top_logprobs or [None] * len(said.token_logprobs)
        return tuple(
            TokenLogprob(logprob or 0.0, self._best(top))
            for logprob, top in zip(said.token_logprobs, tops, strict=True)
        )

    def _best(self, top: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
        """The chosen token is among those said even where it is not among the best."""
        named = sorted((top or {}).items(), key=lambda pair: -pair[1])[: self._alternatives]
        return tuple((int(name.removeprefix(ID_PREFIX)), logprob) for name, logprob in named)
