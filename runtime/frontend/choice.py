"""One choice of an answer: tokens in; text, log-probabilities and the reason it ended out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from dynamoc.runtime.frontend.detokenize import Detokenizer
from dynamoc.runtime.frontend.stops import StopFinder
from dynamoc.runtime.plane.messages import TokenLogprob, TokenOutput


class Entry(NamedTuple):
    """Log-probabilities of one token, whose text begins at character `offset` of the choice."""

    token: int
    logprob: TokenLogprob
    offset: int


class Piece(NamedTuple):
    """What can be shown now. `finish` is `stop` or `length`, with the last piece."""

    text: str
    entries: Sequence[Entry]
    finish: str | None


class Choice:
    """Turns outputs into pieces; holds back what may be the begin of a stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], stop_token_ids: Collection[int]) -> None:
        self.completion_tokens = 0
        self.cached_tokens = 0
        self._detokenizer = detokenizer
        self._stops = StopFinder(stops) if stops else None
        self._stop_token_ids = stop_token_ids
        self._decoded = 0
        self._shown = 0
        self._entries: list[Entry] = []

    def push(self, outputs: Sequence[TokenOutput]) -> Piece:
        """The text of `outputs`. After a piece with `finish` there is nothing more to push."""
        text = ""
        for output in outputs:
            if self.completion_tokens == 0 or output.finish is not None:
                self.cached_tokens = max(self.cached_tokens, output.cached_tokens)
            for number, token in enumerate(output.tokens):
                self.completion_tokens += 1
                if output.logprobs:
                    self._entries.append(Entry(token, output.logprobs[number], self._decoded))
                if output.finish == "stop" and token in self._stop_token_ids:
                    continue  # it ends the text and is no part of it
                new = self._detokenizer.push(token)
                self._decoded += len(new)
                if self._stops is not None:
                    new, found = self._stops.push(new)
                    if found:
                        return self._piece(text + new, "stop")
                text += new
            if output.finish is not None:
                return self._last(text, output.finish)
        return self._piece(text, None)

    def _last(self, text: str, finish: str) -> Piece:
        rest = self._detokenizer.flush()
        if self._stops is not None:
            rest, found = self._stops.push(rest)
            if found:
                return self._piece(text + rest, "stop")
            rest += self._stops.flush()
        piece = self._piece(text + rest, finish)
        return Piece(piece.text, [*piece.entries, *self._entries], finish)

    def _piece(self, text: str, finish: str | None) -> Piece:
        """Entries go out with the first character of their token."""
        self._shown += len(text)
        entries = self._entries
        if not entries:
            return Piece(text, (), finish)
        ready = sum(entry.offset < self._shown for entry in entries)
        self._entries = entries[ready:]
        return Piece(text, entries[:ready], finish)
