"""What an engine says of itself wins over what was planned; what nobody says has a limit that refuses little."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamoc.runtime.manifest import KvSettings, WorkerSettings
from dynamoc.runtime.served.api import Facts
from dynamoc.runtime.served.front import DEFAULT_SEQUENCES, DEFAULT_TOKENS, context_of_model, joined


def planned(context_length: int = 4096, blocks: int = 0, sequences: int = 0, tokens: int = 0) -> WorkerSettings:
    return WorkerSettings(
        engine="vllm",
        device="cuda",
        dtype="auto",
        kv=KvSettings(block_size=16, blocks=blocks, dtype="auto"),
        context_length=context_length,
        max_batched_tokens=tokens,
        max_sequences=sequences,
    )


def test_the_engine_knows_best() -> None:
    facts = Facts(block_size=32, blocks=100, context_length=2048, max_batched_tokens=512, max_sequences=7)
    settings = joined(planned(blocks=5, sequences=9, tokens=11), facts)

    assert (settings.kv.block_size, settings.kv.blocks, settings.context_length) == (32, 100, 2048)
    assert (settings.max_batched_tokens, settings.max_sequences) == (512, 7)


def test_the_plan_holds_where_the_engine_is_silent() -> None:
    settings = joined(planned(blocks=5, sequences=9, tokens=11), Facts())

    assert (settings.kv.block_size, settings.kv.blocks, settings.context_length) == (16, 5, 4096)
    assert (settings.max_batched_tokens, settings.max_sequences) == (11, 9)


def test_what_nobody_says_refuses_no_request_that_might_fit() -> None:
    settings = joined(planned(), Facts())

    assert (settings.max_batched_tokens, settings.max_sequences) == (DEFAULT_TOKENS, DEFAULT_SEQUENCES)
    assert settings.kv.blocks * settings.kv.block_size >= settings.context_length * settings.max_sequences


def test_a_model_may_say_what_engine_and_plan_do_not(tmp_path: Path) -> None:
    assert context_of_model(tmp_path) == 0
    (tmp_path / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 8192}')
    longest = context_of_model(tmp_path)

    assert joined(planned(context_length=0), Facts(), longest).context_length == 8192
    assert joined(planned(), Facts(), longest).context_length == 4096


def test_without_any_context_length_nothing_could_be_routed() -> None:
    with pytest.raises(ValueError, match="write `context_length`"):
        joined(planned(context_length=0), Facts(block_size=32, blocks=100))
