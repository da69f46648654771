"""The memory of a rank: counted by hand where it can be, held against published figures where they exist."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from proving import ROOT, cards, prove

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpu_memory import (
    Account,
    Pool,
    Sharding,
    Usage,
    account,
    certain,
    sequence_bytes,
    weight_bytes,
)
from dynamoc.compiler.gpus import known_gpus
from dynamoc.compiler.memory import GIB
from dynamoc.compiler.models import read_geometry
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.source import read_source
from dynamoc.compiler.summary import GpuMemory, Summary, summarize

MIB = 2**20
H100, H200, B200 = (known_gpus()[kind].memory for kind in ("H100-SXM", "H200", "B200"))

TINY = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}


def tiny(**more: Any) -> Geometry:
    return read_geometry(json.dumps(TINY | more))


def card(ref: str) -> Geometry:
    geometry = cards().geometry(ref)
    assert geometry is not None
    return geometry


def cut(ranks: int, **more: Any) -> Sharding:
    """Everything over the same ranks."""
    return replace(Sharding(ranks, ranks, ranks, ranks, ranks), **more)


def usage(sharding: Sharding, **more: Any) -> Usage:
    base = Usage(sharding, Pool.TOTAL, 0.9, 8192, 256, dtype="bfloat16", kv_dtype="bfloat16")
    return replace(base, **more)


# Llama-3.3-70B in NVFP4 on B200, memory fraction 0.9 (vLLM 0.9): room for KV of all ranks, by tensor parallel size.
PUBLISHED = {1: 113, 2: 269, 4: 578}


@pytest.mark.parametrize(("tp", "published"), PUBLISHED.items())
def test_published_room_for_kv(tp: int, published: int) -> None:
    found = account(card("nvidia/Llama-3.3-70B-Instruct-FP4"), usage(cut(tp), sequences=1024), B200)

    assert found.kv * tp / GIB == pytest.approx(published, rel=0.04)


def test_more_ranks_leave_more_room_on_each_as_published() -> None:
    geometry = card("nvidia/Llama-3.3-70B-Instruct-FP4")
    each = {tp: account(geometry, usage(cut(tp), sequences=1024), B200).kv for tp in PUBLISHED}

    for tp, published in PUBLISHED.items():
        assert each[tp] / each[1] == pytest.approx(published / tp / PUBLISHED[1], abs=0.03)


def test_deepseek_r1_fits_eight_h200_and_not_eight_h100() -> None:
    geometry, eight = card("deepseek-ai/DeepSeek-R1"), usage(cut(8), pool=Pool.STATIC)

    small, large = (certain(geometry, eight, gpu) for gpu in (H100, H200))

    assert small.weights == large.weights == pytest.approx(79.3 * GIB, rel=0.001)
    assert small.weights + small.runtime > H100
    assert large.kv > 40 * GIB


def test_weights_by_hand() -> None:
    geometry = tiny()
    norms, embedding = 64 * (2 * 4 + 1), 1000 * 64
    queries, keys, mlp = 2 * 64 * 64, 2 * 64 * 16, 3 * 64 * 128

    def layers(ranks: int) -> float:
        return 4 * (queries / ranks + keys / min(ranks, 2) + mlp / ranks)

    for ranks in (1, 2, 4, 8):
        expected = layers(ranks) + norms + 2 * embedding / ranks
        assert weight_bytes(geometry, usage(cut(ranks))) == pytest.approx(2 * expected)
    assert weight_bytes(geometry, usage(cut(1), dtype="float32")) == 4 * (layers(1) + norms + 2 * embedding)


def test_the_last_stage_of_a_pipeline_has_the_head() -> None:
    geometry = tiny(vocab_size=100_000)
    layer = 2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 128 + 2 * 64

    assert weight_bytes(geometry, usage(cut(1, stages=2))) == 2 * (2 * layer + 100_000 * 64 + 64)
    assert weight_bytes(geometry, usage(cut(1, stages=2)), even=True) == geometry.parameters
    assert weight_bytes(geometry, usage(cut(1, stages=3)), even=True) < weight_bytes(geometry, usage(cut(1, stages=3)))


def test_experts_are_spread_over_their_own_ranks() -> None:
    geometry = tiny(num_experts=16, num_experts_per_tok=2, moe_intermediate_size=32)
    experts = 4 * 16 * 3 * 64 * 32

    wide, narrow = (weight_bytes(geometry, usage(replace(cut(1), experts=ranks))) for ranks in (8, 1))
    spare = weight_bytes(geometry, usage(replace(cut(1), experts=8, redundant_experts=8)))

    assert narrow - wide == 2 * experts * 7 / 8
    assert spare - wide == 2 * experts / 8 / 2


def test_attention_that_is_data_parallel_is_on_every_rank() -> None:
    geometry = card("deepseek-ai/DeepSeek-R1")
    sharding = Sharding(heads=1, tensor=48, shared=1, experts=48, vocabulary=48, groups=48, redundant_experts=32)

    found = account(geometry, usage(sharding, pool=Pool.STATIC, fraction=0.83, kv_dtype="fp8"), H200)

    attention = 61 * 187_107_328  # bytes: the attention of every layer, whole
    experts = 58 * 256 * 3 * 7168 * 2048 * 288 / 256 / 48
    assert found.weights == pytest.approx(attention + experts, rel=0.2)
    assert found.weights > attention + experts


def test_kv_of_grouped_attention() -> None:
    geometry = tiny()

    assert sequence_bytes(geometry, usage(cut(1)), 10) == 10 * 4 * 2 * 2 * 8 * 2
    assert sequence_bytes(geometry, usage(cut(2)), 10) == 10 * 4 * 2 * 1 * 8 * 2
    assert sequence_bytes(geometry, usage(cut(8)), 10) == sequence_bytes(geometry, usage(cut(2)), 10)
    assert sequence_bytes(geometry, usage(cut(1), kv_dtype="fp8"), 10) == 10 * 4 * 2 * 2 * 8
    assert sequence_bytes(geometry, usage(cut(2, sequence=2)), 10) == 10 * 4 * 2 * 1 * 8
    assert sequence_bytes(geometry, usage(cut(1, stages=2)), 10) == 10 * 2 * 2 * 2 * 8 * 2


def test_kv_of_latent_attention_is_the_same_on_every_rank() -> None:
    geometry = card("deepseek-ai/DeepSeek-R1")

    assert account(geometry, usage(cut(8)), H200).token == 61 * 576 * 2
    assert account(geometry, usage(cut(1)), H200).token == 61 * 576 * 2


def test_windows_and_states_do_not_grow() -> None:
    oss, qwen, flash = (
        card(ref) for ref in ("openai/gpt-oss-20b", "Qwen/Qwen3.5-397B-A17B", "deepseek-ai/DeepSeek-V4-Flash")
    )
    one = usage(cut(1))

    growth = sequence_bytes(oss, one, 10_128) - sequence_bytes(oss, one, 128)
    assert growth == 10_000 * 12 * 2 * 8 * 64 * 2
    assert sequence_bytes(oss, one, 64) == 64 * 24 * 2 * 8 * 64 * 2
    assert account(qwen, one, H200).token == 15 * 2 * 2 * 256 * 2
    state = 45 * 64 * 128 * 128 * 4
    assert state < sequence_bytes(qwen, one, 1) < 1.1 * state + account(qwen, one, H200).token
    assert account(flash, one, H200).token < 43 * 512 * 2 / 4


def test_what_a_fraction_is_of() -> None:
    geometry = tiny()
    pools = {pool: account(geometry, usage(cut(2), pool=pool, fraction=0.5), H100) for pool in Pool}

    def beside(found: Account, *, graphs: bool) -> float:
        held = found.weights + found.activations + found.communication + found.runtime
        return held + (found.graphs if graphs else 0)

    total, static, free = (pools[pool] for pool in (Pool.TOTAL, Pool.STATIC, Pool.FREE))
    assert total.kv == H100 / 2 - beside(total, graphs=False)
    assert static.kv == (H100 - static.runtime) / 2 - static.weights
    assert free.kv == (H100 - beside(free, graphs=True)) / 2
    assert all(found.spare + found.kv + beside(found, graphs=True) == pytest.approx(H100) for found in pools.values())


def test_a_pool_that_was_told_is_that_large() -> None:
    told = account(tiny(), usage(cut(1), kv_tokens=1000), H100)
    given_bytes = account(tiny(), usage(cut(1), kv_bytes=GIB), H100)

    assert told.tokens == 1000
    assert (given_bytes.kv, given_bytes.tokens) == (GIB, GIB // 256)


def test_a_default_of_the_engine_proves_nothing() -> None:
    ours = usage(cut(1), fraction=0.1, fraction_is_ours=True, kv_dtype_is_ours=True)

    assert account(tiny(), ours, H100).kv < 0.1 * H100
    assert certain(tiny(), ours, H100).kv > 0.98 * H100
    assert certain(tiny(), ours, H100).token == account(tiny(), ours, H100).token / 2


@given(
    ranks=st.sampled_from((1, 2, 4, 8)),
    stages=st.integers(1, 4),
    fraction=st.floats(0.05, 1),
    pool=st.sampled_from(Pool),
    tokens=st.integers(1, 100_000),
    gpu=st.sampled_from((H100, H200, B200)),
    ref=st.sampled_from(("Qwen/Qwen3-0.6B", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-R1", "zai-org/GLM-4.5-Air")),
)
def test_what_is_certain_is_never_worse_than_what_is_expected(
    ranks: int, stages: int, fraction: float, pool: Pool, tokens: int, gpu: int, ref: str
) -> None:
    geometry, how = card(ref), usage(cut(ranks, stages=stages), fraction=fraction, pool=pool, tokens=tokens)

    expected, best = account(geometry, how, gpu), certain(geometry, how, gpu)

    assert best.weights <= expected.weights * (1 + 1e-9)
    assert best.kv >= expected.kv - 1e-3
    assert best.token <= expected.token


SPEC = """\
dynamoc: 1
name: demo
model: {{ref: {ref}{precision}}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  worker: {{role: aggregated, engine: {engine}, args: {args}}}
edges: [frontend -> router -> worker]
load: {{isl: 8192, osl: 1024}}
"""
EIGHT = "name: a\nnodes: [{{name: n, cpus: 64, memory: 1 TiB, gpus: {{count: 8, kind: {kind}}}}}]\n"
LLAMA, R1 = "meta-llama/Llama-3.3-70B-Instruct", "deepseek-ai/DeepSeek-R1"


def spec(ref: str, engine: str, args: str = "{}", precision: str = "") -> str:
    return SPEC.format(ref=ref, engine=engine, args=args, precision=precision)


def summary(text: str, kind: str = "H100") -> Summary:
    cluster = read_cluster(read_source(EIGHT.format(kind=kind), "cluster.yaml"))
    plan, _ = build_plan(read_source(text, "spec.yaml"), cluster, cards())
    return summarize(plan)


def memory(text: str, kind: str = "H100") -> GpuMemory:
    (found,) = summary(text, kind).gpu_memory
    return found


def test_engines_share_out_a_gpu_differently() -> None:
    vllm = memory(spec(LLAMA, "vllm", "{tp: 4, gpu-memory-utilization: 0.8}"))
    sglang = memory(spec(LLAMA, "sglang", "{tp: 4, mem-fraction-static: 0.8}"))
    trtllm = memory(
        spec(LLAMA, "trtllm", "{tensor_parallel_size: 4, kv_cache_config: {free_gpu_memory_fraction: 0.8}}")
    )

    assert vllm.weights == sglang.weights == trtllm.weights
    assert vllm.kv < trtllm.kv
    assert sglang.kv == pytest.approx(0.8 * (H100 - 2 * GIB) - sglang.weights)
    assert vllm.kv == pytest.approx(0.8 * H100 - vllm.weights - vllm.activations - vllm.communication - vllm.runtime)


def test_data_parallel_attention_counts_the_tokens_of_all_groups() -> None:
    plain = memory(spec(R1, "sglang", "{tp: 8, mem-fraction-static: 0.85}"), "H200")
    parallel = memory(
        spec(R1, "sglang", "{tp: 8, dp: 8, enable-dp-attention: true, mem-fraction-static: 0.85}"), "H200"
    )

    assert parallel.weights > plain.weights + 8 * GIB
    assert parallel.kv_bytes_per_token == plain.kv_bytes_per_token
    assert parallel.kv_tokens is not None
    assert plain.kv_tokens is not None
    assert parallel.kv_tokens > 6 * plain.kv_tokens


def test_one_request_more_does_not_fit() -> None:
    found = memory(spec(LLAMA, "vllm", "{tp: 4}"))

    assert found.request_tokens == 9216
    assert found.concurrency == found.kv // (9216 * found.kv_bytes_per_token)


@pytest.mark.parametrize(
    ("engine", "args"),
    [
        ("vllm", "{tp: 8}"),
        ("vllm", "{tp: 4, pp: 2}"),
        ("vllm", "{dp: 8, enable-expert-parallel: true}"),
        ("sglang", "{tp: 8}"),
        ("sglang", "{tp: 8, dp: 8, ep: 8, enable-dp-attention: true}"),
        ("trtllm", "{tensor_parallel_size: 8, moe_expert_parallel_size: 8, enable_attention_dp: true}"),
    ],
)
def test_deepseek_r1_by_engine_and_gpu(engine: str, args: str) -> None:
    text = spec(R1, engine, args)

    assert [d.code for d in prove(text, EIGHT.format(kind="H100")).errors] == ["D330"]
    assert not prove(text, EIGHT.format(kind="B200")).errors


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (spec("owner/unknown", "vllm", "{tp: 1, max-model-len: 9999}"), "nothing is known of the model"),
        (spec(R1, "sglang", "{tp: 8}", ", precision: fp4"), "the format of its weights is not known for certain"),
        (spec(LLAMA, "vllm", "{tp: 1, cpu-offload-gb: 100}"), "the format of its weights is not known for certain"),
        (spec(LLAMA, "vllm", "{tp: 1, quantization: new}"), "the format of its weights is not known for certain"),
    ],
)
def test_what_is_not_known_for_certain_is_unchecked(text: str, why: str) -> None:
    assert not prove(text, EIGHT.format(kind="H100")).errors
    assert f"GPU memory of `worker`: {why}" in summary(text).unchecked


def test_weights_are_quantised_on_the_way_where_the_engine_is_told_so() -> None:
    text = spec(LLAMA, "vllm", "{tp: 1, quantization: fp8}")

    assert not prove(text, EIGHT.format(kind="H200")).errors
    assert memory(text, "H200").weights == pytest.approx(
        card("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic").bytes_on_disk
    )


def test_every_card_has_a_memory_on_some_node() -> None:
    refs = sorted(path.stem.replace("--", "/") for path in (ROOT / "specs/models").glob("*.yaml"))
    eight = usage(cut(8))

    for ref in refs:
        found = account(card(ref), eight, known_gpus()["GB300"].memory)
        assert found.weights > 0
        assert found.kv > 0
        assert sequence_bytes(card(ref), eight, 1000) > 0
