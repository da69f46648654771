"""Token ids to text as they come: never half a character, nothing lost at the end."""

from __future__ import annotations

from collections.abc import Sequence

from dynamoc.runtime.frontend.tokenizer import Tokenizer

# Enough to decide whether the first token's leading space belongs to the text.
CONTEXT_TOKENS = 5


class Detokenizer:
    """The text of one answer. `prompt` decides how its first token reads, and is not part of it."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        context = list(prompt[-CONTEXT_TOKENS:])
        if "\ufffd" in tokenizer.decode(context):  # cut inside a character: no context is better than a broken one
            context = []
        self._tokenizer = tokenizer
        self._step = tokenizer.stream(context)
        self._shown: list[int] = context
        self._open: list[int] = []

    def push(self, token: int) -> str:
        """What can be shown now: empty while a character is incomplete."""
        self._open.append(token)
        text = self._step(token)
        if text is None:
            return ""
        self._shown, self._open = self._open, []
        return text

    def flush(self) -> str:
        """The rest, when no more tokens come; an incomplete character becomes U+FFFD."""
        if not self._open:
            return ""
        decode = self._tokenizer.decode
        before = decode(self._shown)
        text = decode(self._shown + self._open)[len(before) :]
        self._open = []
        return text
