"""Incremental text against the text of all tokens at once, and the bytes of single tokens."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import write_model
from tokenizers import Tokenizer as Encoder
from tokenizers import decoders, models, pre_tokenizers

from dynamoc.runtime.frontend.detokenize import Detokenizer
from dynamoc.runtime.frontend.tokenizer import Tokenizer, TokenizerError, load_tokenizer

SMOLLM2 = Path.home() / ".cache/dynamoc/models/HuggingFaceTB/SmolLM2-135M-Instruct"

# The model's vocabulary does not have every byte: control characters, and planes nobody uses, are dropped.
KNOWN_TEXT = st.text(st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs", "Cc", "Co", "Cn"]), max_size=60)


@cache
def tiny() -> Tokenizer:
    folder = Path(mkdtemp())
    write_model(folder)
    return load_tokenizer(folder)


@cache
def real() -> Tokenizer:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    return load_tokenizer(SMOLLM2)


def sentencepiece() -> Tokenizer:
    """Spaces as ▁, bytes as <0x..>, and a first space that is not shown."""
    vocabulary = [("<unk>", 0.0), ("▁Paris", -1.0), ("▁is", -1.0), ("▁", -2.0), ("a", -2.0)]
    vocabulary += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    encoder = Encoder(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    encoder.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    encoder.decoder = decoders.Sequence(parts)
    return Tokenizer(encoder)


def text_of(tokenizer: Tokenizer, ids: list[int], prompt: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer, prompt)
    return "".join(map(detokenizer.push, ids)) + detokenizer.flush()


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    (ids,) = asyncio.run(tokenizer.encode([text], add_special_tokens=False))
    return ids


@given(st.text(max_size=40), st.integers(0, 40))
@settings(deadline=None)
def test_text_comes_through_whole_wherever_the_prompt_ends(text: str, size: int) -> None:
    ids = encode(tiny(), text)
    prompt, answer = ids[:size], ids[size:]
    if "\ufffd" in tiny().decode(prompt):  # the prompt ends inside a character
        return

    assert text_of(tiny(), answer, prompt) == text[len(tiny().decode(prompt)) :]


@given(st.lists(st.integers(0, 399), max_size=30))
@settings(deadline=None)
def test_nothing_is_lost_whatever_the_tokens(ids: list[int]) -> None:
    assert text_of(tiny(), ids, []) == tiny().decode(ids)


@pytest.mark.model
@given(KNOWN_TEXT)
@settings(deadline=None)
def test_a_real_tokenizer_gives_the_text_back(text: str) -> None:
    assert text_of(real(), encode(real(), text), []) == text


@pytest.mark.model
@given(KNOWN_TEXT)
@settings(deadline=None)
def test_the_bytes_of_a_real_tokenizer_s_tokens_are_the_text_s(text: str) -> None:
    assert b"".join(map(real().token_bytes, encode(real(), text))) == text.encode()


def test_the_space_before_the_first_word_depends_on_the_prompt() -> None:
    tokenizer = sentencepiece()
    paris, capital = encode(tokenizer, "Paris is")

    assert text_of(tokenizer, [paris, capital], []) == "Paris is"
    assert text_of(tokenizer, [paris, capital], [capital]) == " Paris is"


def test_the_bytes_of_tokens() -> None:
    tokenizer = sentencepiece()
    ids = encode(tokenizer, "Parisé")

    assert b"".join(map(tokenizer.token_bytes, ids)) == " Parisé".encode()
    assert tiny().token_bytes(1) == b"<bos>"


def test_long_texts_are_encoded_off_the_loop() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        turns = 0

        def count() -> None:
            nonlocal turns
            turns += 1
            timer[0] = loop.call_later(0.001, count)

        timer = [loop.call_soon(count)]
        await tiny().encode(["the quick brown fox " * 20_000], add_special_tokens=True)
        timer[0].cancel()
        assert turns > 5

    asyncio.run(scenario())


def test_a_folder_without_a_tokenizer_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="is not a tokenizer"):
        load_tokenizer(tmp_path)
