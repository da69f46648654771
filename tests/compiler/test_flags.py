"""Flags of engines: every spelling they take, what it means, and from which version to which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.compiler.dialect import DIALECTS, dialect
from dynamoc.compiler.flags import FlagTable, build_table, convert, fold, table, version_of
from dynamoc.compiler.spelling import nested, spell_flags, unsaid

SERVED = [name for name in DIALECTS if dialect(name).capabilities.external]


@pytest.mark.parametrize(
    ("engine", "key", "fact"),
    [
        ("sglang", "tp-size", "tp"),
        ("sglang", "tensor-parallel-size", "tp"),
        ("sglang", "tensor_parallel_size", "tp"),
        ("sglang", "--tp", "tp"),
        ("sglang", "speculative-algo", "speculative"),
        ("sglang", "expert_parallel_size", "ep"),
        ("vllm", "tensor-parallel-size", "tp"),
        ("vllm", "tensor_parallel_size", "tp"),
        ("vllm", "-tp", "tp"),
        ("vllm", "max_num_batched_tokens", "max_batched_tokens"),
        ("trtllm", "tensor_parallel_size", "tp"),
        ("trtllm", "moe_expert_parallel_size", "ep"),
    ],
)
def test_a_flag_is_known_in_every_spelling(engine: str, key: str, fact: str) -> None:
    reading = table(engine).read({key: 8})

    assert (reading.facts, reading.spelled, reading.unknown) == ({fact: 8}, {fact: (key,)}, ())


def test_nested_options_are_read_by_section() -> None:
    args = {"kv_cache_config": {"dtype": "fp8", "tokens_per_block": 128, "novel": 1}, "cuda_graph_config": None}
    reading = table("trtllm").read(args)

    assert (reading.facts["kv_dtype"], reading.facts["block_size"]) == ("fp8", 128)
    assert reading.spelled["block_size"] == ("kv_cache_config", "tokens_per_block")
    assert reading.unknown == (("kv_cache_config", "novel"),)


def test_json_inside_a_flag_is_read_and_broken_json_is_left_alone() -> None:
    engine = dialect("vllm")
    good = engine.read({"kv-transfer-config": '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'})

    assert good.facts["kv_transport"] == "nixl"
    assert "kv_transport" not in engine.read({"kv-transfer-config": "{broken"}).facts


def test_negations_count() -> None:
    assert table("vllm").read({"no-enable-prefix-caching": True}).facts == {"prefix_caching": False}
    assert table("sglang").read({"no-trust-remote-code": True}).unknown == (("no-trust-remote-code",),)


def test_one_flag_in_two_spellings() -> None:
    assert table("sglang").read({"tp": 4, "tp-size": 8}).clashes == ((("tp",), ("tp-size",)),)
    assert table("sglang").read({"tp": 4, "tp-size": "4"}).clashes == ()


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("8", "int", (True, 8)),
        ("65535", "port", (True, 65535)),
        (65536, "port", (False, 65536)),
        (True, "int", (False, True)),
        ("0.9", "float", (True, 0.9)),
        ("many", "int", (False, "many")),
        ("true", "bool", (True, True)),
        ("16k", "length", (True, 16000)),
        ("16K", "length", (True, 16384)),
        ("auto", "length", (True, "auto")),
        (None, "int", (True, None)),
        ([1, 2], "list", (True, [1, 2])),
    ],
)
def test_values_may_be_written_as_on_a_command_line(value: Any, kind: str, expected: tuple[bool, Any]) -> None:
    assert convert(value, kind) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.24.0", (0, 24, 0, 0, 0)),
        ("v0.5.8.post1", (0, 5, 8, 0, 0)),
        ("0.5.10-cu130", (0, 5, 10, 0, 0)),
        ("1.3.0rc2", (1, 3, 0, 0, -1, 2)),
        ("0.17.2rc1.dev2746+g20b", (0, 17, 2, 0, -1, 1)),
        ("nightly", None),
        (None, None),
    ],
)
def test_versions_compare_as_numbers(text: str | None, expected: tuple[int, ...] | None) -> None:
    assert version_of(text) == expected


def test_what_comes_before_a_release_is_older_than_it() -> None:
    ordered = ["0.5.9", "0.5.10rc1", "0.5.10", "0.5.10.1", "1.3.0rc9", "1.3.0rc21", "1.3", "1.3.1"]

    assert sorted(ordered, key=lambda text: version_of(text) or ()) == ordered


@pytest.mark.parametrize("engine", SERVED)
def test_tables_are_consistent(engine: str) -> None:
    flags = table(engine).flags
    kinds = {"int", "float", "bool", "str", "any", "list", "length", "section", "size", "port"}

    assert {flag.type for flag in flags.values()} <= kinds
    for flag in flags.values():
        assert flag.gone is None or version_of(flag.gone)
        assert flag.new is None or version_of(flag.new)
        if flag.gone is not None and flag.new is not None:
            assert (version_of(flag.new) or ()) < (version_of(flag.gone) or ())
        if flag.renamed is not None:
            assert table(engine).find(flag.renamed), flag


@pytest.mark.parametrize("engine", SERVED)
def test_what_a_field_of_the_spec_becomes_is_a_flag(engine: str) -> None:
    found = table(engine)
    for fact in ("tp", "pp", "context_length", "max_batched_tokens", "max_sequences", "kv_dtype", "block_size"):
        name = found.spelling(fact)

        assert name is not None
        assert found.flags[fold(name)].fact == fact


def test_versions_of_flags_are_those_of_the_engine() -> None:
    """Known from release notes: vLLM's V1 engine lost multi-step scheduling; SGLang's DeepEP flag became a backend."""
    assert table("vllm").flags["num_scheduler_steps"].gone == "0.11.0"
    assert table("vllm").flags["data_parallel_hybrid_lb"].new == "0.8.5"
    assert table("sglang").flags["enable_deepep_moe"].gone == "0.5.5"
    assert table("sglang").flags["enable_deepep_moe"].renamed == "moe-a2a-backend"
    assert table("trtllm").flags["build_config"].gone == "1.3.0rc21"
    assert table("trtllm").flags["cuda_graph_config.padding_enabled"].renamed == "cuda_graph_config.enable_padding"
    assert table("trtllm").flags["nvfp4_gemm_config"].new == "1.1.0"


def spelled(args: dict[str, Any], engine: str = "vllm") -> list[Any]:
    return list(spell_flags(args, table(engine)))


def test_words_of_a_command() -> None:
    assert spelled({"tp": 2}) == ["-tp", "2"]
    assert spelled({"enforce-eager": True, "seed": None}) == ["--enforce-eager"]
    assert spelled({"async-scheduling": False, "headless": False}) == ["--no-async-scheduling"]
    assert spelled({"ep": False, "no-enable-dbo": False}) == ["--no-enable-expert-parallel", "--enable-dbo"]
    assert spelled({"skip-tokenizer-init": False}, "sglang") == []
    assert spelled({"lora-strict-loading": False}, "sglang") == ["--no-lora-strict-loading"]
    assert spelled({"cuda-graph-bs": [1, 2]}, "sglang") == ["--cuda-graph-bs", "1", "2"]
    assert spelled({"compilation-config": {"mode": 0}}) == ["--compilation-config", '{"mode":0}']
    assert spelled({"max_num_seqs": 3}) == ["--max_num_seqs", "3"]


def test_a_flag_is_negated_where_its_version_can() -> None:
    flags = {"enforce-eager": False, "enable-prefix-caching": False}

    assert list(spell_flags(flags, table("vllm"), "0.8.5")) == ["--no-enable-prefix-caching"]
    assert list(spell_flags(flags, table("vllm"), "0.11.0")) == ["--no-enforce-eager", "--no-enable-prefix-caching"]


def test_what_is_false_and_said_by_no_word_is_named() -> None:
    flags = {"headless": False, "enable-lora": False, "novel": False, "seed": False, "x": None}

    assert list(unsaid(flags, table("vllm"))) == ["novel", "seed"]


def test_flags_join_the_sections_that_are_there() -> None:
    written = {"kv_cache_config": {"dtype": "fp8"}, "moe_config": None}

    assert nested({"kv_cache_config.tokens_per_block": 64, "max_seq_len": 8}, written) == {
        "kv_cache_config": {"dtype": "fp8", "tokens_per_block": 64},
        "moe_config": None,
        "max_seq_len": 8,
    }
    assert written == {"kv_cache_config": {"dtype": "fp8"}, "moe_config": None}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
keys = st.sampled_from(sorted({name for engine in SERVED for name in table(engine).flags})) | st.text(max_size=12)


@given(st.sampled_from(SERVED), st.dictionaries(keys, values, max_size=6))
def test_anything_can_be_read_and_sized(engine: str, args: dict[str, Any]) -> None:
    found = dialect(engine)
    reading = found.read(args)
    parallel = found.parallel(reading.facts, {})

    assert parallel.attention_tp >= 1
    assert set(reading.spelled) == set(reading.facts)


def test_a_table_of_an_engine_is_data() -> None:
    data = {
        "negatable": ["quick"],
        "switches": {"1.0": ["quick"]},
        "facts": {"world-size": {"fact": "tp", "type": "int", "aliases": ["ws"]}},
        "known": {"bool": ["quick"]},
        "gone": {"2.0": ["quick"]},
    }
    found: FlagTable = build_table("x", data)

    assert found.read({"ws": 2, "no-quick": True}).facts == {"tp": 2}
    assert found.flags["quick"].gone == "2.0"
    assert [found.says("quick", False, version) for version in ("1.0", "1.1", None)] == [None, "no-quick", "no-quick"]
