"""Synthetic prompts of an exact length in tokens, the same for the same seed."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from dynamoc.compiler.load import FURTHEST
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
        self._unlike = 0
        self._prefixes = [self._draw(self._dice(f"prefix/{group}"), common) for group in range(point.prefixes)]

    def make(self, kind: str, count: int) -> list[str]:
        """As many as are asked for, none like another but in a shared prefix; LoadError if that cannot be."""
        dice = self._dice(f"{self._point.id}/{kind}")
        return [self._one(dice) for _ in range(count)]

    def of_blocks(self, hashes: Sequence[int], isl: int, block_tokens: int) -> str:
        """A prompt of `isl` tokens whose blocks are the same wherever their hashes are; without hashes, like no other.

        Only the last block is trimmed or filled up, so that a shared beginning stays one. LoadError.
        """
        if not hashes:
            self._unlike += 1
            dice = self._dice(f"unlike/{self._unlike}")
            return self._exact(self._draw(dice, isl), isl, dice)
        words = [word for each in hashes for word in self._draw(self._dice(f"block/{each}"), block_tokens)]
        return self._exact(words[:isl], isl, self._dice(f"end/{hashes[-1]}"))

    def _one(self, dice: random.Random) -> str:
        """A prefix of some group, and words of its own."""
        isl = drawn(dice, self._point.isl, self._point.isl_stddev)
        prefix = self._prefixes[dice.randrange(len(self._prefixes))][:isl]
        return self._exact(prefix + self._draw(dice, isl - len(prefix)), isl, dice)

    def _exact(self, words: list[str], isl: int, dice: random.Random) -> str:
        """Words go or come until the text has the length; what the tokenizer adds by itself counts too."""
        for _ in range(TRIES):
            text = "".join(words)
            excess = len(self._tokenizer.encode(text).ids) - isl
            if excess == 0:
                return text
            words = words[:-excess] if excess > 0 else words + self._draw(dice, -excess)
        raise LoadError(f"no text of exactly {isl} tokens was found for this model's tokenizer")

    def _draw(self, dice: random.Random, count: int) -> list[str]:
        return dice.choices(self._words, k=count)

    def _dice(self, use: str) -> random.Random:
        return random.Random(f"{self._point.seed}/{use}")  # noqa: S311  # not a secret


def drawn(dice: random.Random, mean: int, stddev: float) -> int:
    """A length around a mean, at least 1 and never further away than two deviations."""
    if not stddev:
        return mean
    furthest = FURTHEST * stddev
    return max(1, round(min(max(dice.gauss(mean, stddev), mean - furthest), mean + furthest)))


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
