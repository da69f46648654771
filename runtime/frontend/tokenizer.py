"""Text to token ids and back, by the `tokenizers` library alone."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Encoder
from tokenizers.decoders import DecodeStream

# `encode` holds the interpreter lock for about 1 µs a token; from here on a thread, which does not, is worth its cost.
LONG_TEXT = 2_000

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenizerError(ValueError):
    """The model folder holds no tokenizer this library can read."""


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(2, "tokenizer")
        self._added = {i: token.content for i, token in encoder.get_added_tokens_decoder().items()}
        decoder = json.loads(encoder.to_str())["decoder"]
        self._bytes_of_char = _byte_level_alphabet() if _uses_byte_level(decoder) else None
        self.vocab_size: int = 1 + max(encoder.get_vocab(with_added_tokens=True).values())

    async def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Token ids of each text. With `add_special_tokens` as the model was trained (a leading BOS, say)."""
        if sum(map(len, texts)) <= LONG_TEXT:
            return [self._encoder.encode(text, add_special_tokens=add_special_tokens).ids for text in texts]

        def encode_all() -> list[list[int]]:
            encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
            return [encoding.ids for encoding in encodings]

        return await asyncio.get_running_loop().run_in_executor(self._threads, encode_all)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens."""
        return self._encoder.decode(ids, skip_special_tokens=True)

    def stream(self, context: Sequence[int]) -> Callable[[int], str | None]:
        """A decoder that goes on behind `context`: what a token adds to the text, None inside a character."""
        return partial(DecodeStream(ids=list(context), skip_special_tokens=True).step, self._encoder)

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for, which need not be whole characters."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._encoder.id_to_token(token) or ""
        if self._bytes_of_char is not None:
            return bytes(self._bytes_of_char[char] for char in piece)
        if (match := _BYTE_TOKEN.fullmatch(piece)) is not None:
            return bytes([int(match[1], 16)])
        return piece.replace("▁", " ").encode()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; TokenizerError says what is wrong with it."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise TokenizerError(f"no tokenizer.json in {folder}")
    try:
        return Tokenizer(Encoder.from_file(str(path)))
    except Exception as error:  # the library raises plain Exception for every malformed file
        raise TokenizerError(f"{path} is not a tokenizer: {error}") from error


def _uses_byte_level(decoder: dict[str, Any] | None) -> bool:
    if decoder is None:
        return False
    return decoder["type"] == "ByteLevel" or any(map(_uses_byte_level, decoder.get("decoders", ())))


def _byte_level_alphabet() -> dict[str, int]:
    """Which byte each character of a byte-level vocabulary stands for (GPT-2's printable spelling of bytes)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
