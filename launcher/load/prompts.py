"""Synthetic prompts of an exact length in tokens, the same for the same seed."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from dynamoc.launcher.load.point import LoadError, LoadPoint

WORD = re.compile(r" [a-z]{2,12}")
WORDS = 4096
TRIES = 64


class Prompts:
    """Prompts of one point. Words are single tokens of the model's vocabulary, so that counts are exact."""

    def __init__(self, point: LoadPoint, folder: Path) -> None:
        self._point = point
        self._tokenizer = _tokenizer(folder)
        self._words = _words(self._tokenizer)
        common = min(round(point.isl * point.shared_prefix), point.isl)
        self._prefix = random.Random(f"{point.seed}/prefix").choices(self._words, k=common)  # noqa: S311  # not a secret

    def make(self, kind: str, count: int) -> list[str]:
        """As many as are asked for, none like another but in the shared prefix; LoadError if that cannot be."""
        dice = random.Random(f"{self._point.seed}/{self._point.id}/{kind}")  # noqa: S311  # not a secret
        return [self._one(dice) for _ in range(count)]

    def _one(self, dice: random.Random) -> str:
        """Words are drawn until the text has the length; what the tokenizer adds by itself counts too."""
        own = dice.choices(self._words, k=self._point.isl - len(self._prefix))
        words = self._prefix + own
        for _ in range(TRIES):
            text = "".join(words)
            excess = len(self._tokenizer.encode(text).ids) - self._point.isl
            if excess == 0:
                return text
            words = words[:-excess] if excess > 0 else words + dice.choices(self._words, k=-excess)
        raise LoadError(f"no text of exactly {self._point.isl} tokens was found for this model's tokenizer")


def _tokenizer(folder: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more exact
        raise LoadError(f"no tokenizer in {folder}: {error}") from error


def _words(tokenizer: Tokenizer) -> Sequence[str]:
    """Words that are one token each and stay so beside each other."""
    known = (tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size()))
    found = list(itertools.islice((word for word in known if WORD.fullmatch(word)), WORDS))
    if not found:  # vocabularies whose decoder drops the space before a word
        plain = (tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size()))
        found = [f" {word}" for word in itertools.islice((w for w in plain if WORD.fullmatch(f" {w}")), WORDS)]
    if not found:
        raise LoadError("the tokenizer's vocabulary has no words to make prompts of")
    return found
