"""When a request will never run, and when one that runs is complete. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from dynamoc.runtime.engines.native.sequence import Sequence
from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.plane.messages import FinishReason, TokenOutput


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one engine: the most tokens of a request, because of its context or of its `pool`, and its last tokens."""

    tokens: int
    pool: str
    eos_token_ids: frozenset[int]

    def refusal(self, request: EngineRequest) -> TokenOutput | None:
        """The output with which the request ends at once, if it does."""
        key, length = request.key, len(request.tokens)
        if not 0 <= request.generated < max(length, 1):
            text = f"{length} tokens of which {request.generated} were generated leave no prompt"
        elif not length:
            text = "the prompt has no tokens"
        elif length >= self.tokens:
            text = f"{length} tokens leave no room to generate: the limit is {self.tokens} (pool: {self.pool})"
        elif request.generated >= request.sampling.max_tokens:
            return TokenOutput(key, (), "length")
        else:
            return None
        return TokenOutput(key, (), "error", error=text)

    def finish_reason(self, sequence: Sequence) -> FinishReason | None:
        """Why the sequence ends with its last token, or None."""
        token, sampling = sequence.tokens[-1], sequence.sampling
        if token in sampling.stop_token_ids or (token in self.eos_token_ids and not sampling.ignore_eos):
            return "stop"
        length = len(sequence.tokens)
        if length >= self.tokens or length - sequence.prompt_tokens + sequence.generated >= sampling.max_tokens:
            return "length"
        return None
