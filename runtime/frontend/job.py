"""From a request's body to what has to be generated: prompts as tokens, sampling, how to answer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from dynamoc.runtime.frontend.errors import ApiError, bad_value, too_long
from dynamoc.runtime.frontend.openai import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    StreamOptions,
    decode_request,
    template_messages,
)
from dynamoc.runtime.frontend.template import ChatTemplate, TemplateError
from dynamoc.runtime.frontend.tokenizer import Tokenizer
from dynamoc.runtime.plane.messages import Sampling

# OpenAI's default for completions; chat answers may be as long as the context lets them.
DEFAULT_COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Job:
    """What one request wants: `n` choices for each of `prompts`. `samplings` has one entry per prompt."""

    prompts: Sequence[Sequence[int]]
    samplings: Sequence[Sampling]
    n: int
    stops: tuple[str, ...]
    stream: bool
    stream_options: StreamOptions
    echoes: tuple[str, ...] = ()
    """Texts of the prompts, one for each choice, if they are to be part of the answer."""

    @property
    def count(self) -> int:
        """How many choices there are, over all prompts."""
        return len(self.prompts) * self.n

    def choices(self) -> list[tuple[Sequence[int], Sampling]]:
        """Prompt and sampling of each choice. Choices of one prompt differ by their seed alone."""
        return [
            (prompt, msgspec.structs.replace(sampling, seed=(sampling.seed + number) % 2**63))
            for prompt, sampling in zip(self.prompts, self.samplings, strict=True)
            for number in range(self.n)
        ]


@dataclass(frozen=True, slots=True)
class Model:
    """What the frontend knows of the model it serves."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    context_length: int

    async def chat_job(self, body: bytes) -> Job:
        """The job of a chat request; ApiError if it cannot be done."""
        request = decode_request(body, ChatRequest)
        self._check_name(request.model)
        if self.template is None:
            raise bad_value(f"model `{self.name}` has no chat template; use /v1/completions", "messages")
        try:
            text = self.template.render(template_messages(request), request.chat_template_kwargs or {})
        except TemplateError as error:
            raise bad_value(str(error), "messages") from error
        # The template writes the special tokens itself.
        prompts = await self.tokenizer.encode([text], add_special_tokens=False)
        limit = request.max_completion_tokens or request.max_tokens
        logprobs = (request.top_logprobs or 0) if request.logprobs else -1
        return self._job(request, prompts, limit, logprobs)

    async def completion_job(self, body: bytes) -> Job:
        """The job of a completion request; ApiError if it cannot be done."""
        request = decode_request(body, CompletionRequest)
        self._check_name(request.model)
        if request.echo and request.logprobs is not None:
            raise bad_value("`echo` with `logprobs` is not supported: prompts get no log-probabilities", "logprobs")
        prompts = await self._prompts(request.prompt)
        logprobs = -1 if request.logprobs is None else request.logprobs
        job = self._job(request, prompts, request.max_tokens or DEFAULT_COMPLETION_TOKENS, logprobs)
        if not request.echo:
            return job
        texts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        echoes = [t if isinstance(t, str) else self.tokenizer.decode(p) for t, p in zip(texts, prompts, strict=False)]
        return replace(job, echoes=tuple(text for text in echoes for _ in range(job.n)))

    def _job(
        self,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[Sequence[int]],
        max_tokens: int | None,
        logprobs: int,
    ) -> Job:
        n = request.n or 1
        if len(prompts) * n > MAX_CHOICES:
            raise bad_value(f"{len(prompts)} prompts with `n` {n} are more than {MAX_CHOICES} choices", "n")
        sampling = _sampling(request, logprobs)
        return Job(
            prompts=prompts,
            samplings=[
                msgspec.structs.replace(sampling, max_tokens=self._limit(len(prompt), max_tokens)) for prompt in prompts
            ],
            n=n,
            stops=request.stops,
            stream=bool(request.stream),
            stream_options=request.stream_options or StreamOptions(),
        )

    async def _prompts(self, prompt: str | list[Any]) -> list[list[int]]:
        """A text, texts, token ids or lists of token ids: all become lists of token ids."""
        single = isinstance(prompt, str) or (prompt and _is_token(prompt[0]))
        prompts: list[Any] = [prompt] if single else list(prompt)
        if not prompts:
            raise bad_value("`prompt` is empty", "prompt")
        if len(prompts) > MAX_CHOICES:
            raise bad_value(f"at most {MAX_CHOICES} prompts are allowed", "prompt")
        if all(isinstance(text, str) for text in prompts):
            return await self.tokenizer.encode(prompts, add_special_tokens=True)
        for ids in prompts:
            if not isinstance(ids, list) or not all(map(_is_token, ids)):
                raise bad_value("`prompt` must be a text, texts, token ids or lists of token ids", "prompt")
            if ids and not 0 <= min(ids) <= max(ids) < self.tokenizer.vocab_size:
                raise bad_value(f"token ids must be from 0 to {self.tokenizer.vocab_size - 1}", "prompt")
        return prompts

    def _check_name(self, name: str) -> None:
        if name != self.name:
            message = f"model `{name}` does not exist; this server has `{self.name}`"
            raise ApiError(404, message, param="model", code="model_not_found")

    def _limit(self, prompt: int, asked: int | None) -> int:
        """How many tokens may be generated, so that prompt and answer fit the context."""
        if prompt == 0:
            raise bad_value("the prompt has no tokens", "prompt")
        room = self.context_length - prompt
        if room < 1:
            raise too_long(f"the context holds {self.context_length} tokens, the prompt has {prompt}", "messages")
        if asked is not None and asked > room:
            total = f"the prompt has {prompt} and the answer may have {asked}: {prompt + asked} together"
            raise too_long(f"the context holds {self.context_length} tokens, {total}", "max_tokens")
        return room if asked is None else asked


def _sampling(request: ChatRequest | CompletionRequest, logprobs: int) -> Sampling:
    return Sampling(
        max_tokens=0,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(request.top_k or 0, 0),
        seed=secrets.randbits(63) if request.seed is None else request.seed % 2**63,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        logprobs=logprobs,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
    )


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
