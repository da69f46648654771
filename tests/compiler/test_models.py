"""Cards and config.json: counts of parameters and sizes of checkpoints as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from proving import ROOT, cards

from dynamoc.compiler.geometry import BITS, Geometry
from dynamoc.compiler.layers import Compressed, Dense, Experts, GatedDelta, Grouped, Latent, Mamba
from dynamoc.compiler.models import ModelTextError, like_of, read_geometry
from dynamoc.compiler.source import read_source

CARDS = sorted((ROOT / "specs/models").glob("*.yaml"))
TOLERANCE = 0.01

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
MIXTURE = LLAMA | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = LLAMA | {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}


def of(**config: Any) -> Geometry:
    return read_geometry(json.dumps(config))


def card(ref: str) -> Geometry:
    geometry = cards().geometry(ref)
    assert geometry is not None
    return geometry


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_has_a_source_and_the_published_count(path: Path) -> None:
    data = read_source(path.read_text(), path.name).data

    geometry = cards().geometry(path.stem.replace("--", "/"))

    assert data["source"]
    assert geometry is not None
    assert geometry.exact
    assert len(geometry.blocks) == geometry.layers
    assert ("like" in data) != ("parameters" in data)
    if "parameters" in data:
        assert data["parameters_source"]
        assert geometry.parameters == pytest.approx(data["parameters"], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("ref", "parameters"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.1-405B-Instruct", 405_853_388_800),
        ("Qwen/Qwen3-32B", 32_762_123_264),
        ("Qwen/Qwen3-235B-A22B", 235_093_634_560),
        ("deepseek-ai/DeepSeek-V3", 671_026_419_200),
        ("openai/gpt-oss-120b", 116_829_156_672),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46_702_792_704),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_counts_of_checkpoints_are_met_but_for_norms(ref: str, parameters: int) -> None:
    assert card(ref).parameters == pytest.approx(parameters, rel=1e-5)


@pytest.mark.parametrize(
    ("ref", "size"),
    [
        ("openai/gpt-oss-120b", 60.8 * 2**30),  # gpt-oss model card, table 1
        ("openai/gpt-oss-20b", 12.8 * 2**30),  # the same
        ("MiniMaxAI/MiniMax-M3-MXFP8", 444e9),  # size named by the card of a pruned variant
        ("moonshotai/Kimi-K2.6", 555 * 2**30),  # size named by the card of a merged variant
    ],
)
def test_sizes_of_checkpoints_are_met(ref: str, size: float) -> None:
    assert card(ref).bytes_on_disk == pytest.approx(size, rel=0.015)


def test_grouped_attention_by_hand() -> None:
    geometry = of(**LLAMA)

    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64
    layer = attention + 3 * 64 * 128 + 2 * 64
    assert geometry.parameters == 2 * 100 * 64 + 2 * layer + 64
    assert of(**LLAMA, tie_word_embeddings=True).parameters == geometry.parameters - 100 * 64
    assert of(**LLAMA, attention_bias=True).parameters == geometry.parameters + 2 * (64 + 2 * 32 + 64)
    assert geometry.kv_elements == 2 * 2 * 2 * 16


def test_latent_attention_keeps_one_vector_a_token() -> None:
    geometry = of(**LATENT)

    mixer = geometry.blocks[0].mixer
    assert mixer == Latent(4, 24, 16, 8, 4, 8)
    assert geometry.kv_elements == 2 * (16 + 4)
    assert isinstance(mixer, Latent)
    assert mixer.cache(4) == mixer.cache(1)


def test_a_mixture_has_dense_layers_where_it_says() -> None:
    def dense(**more: Any) -> list[bool]:
        return [isinstance(layer.mlp, Dense) for layer in of(**MIXTURE, **more).blocks]

    assert dense() == [False, False]
    assert dense(first_k_dense_replace=1) == [True, False]
    assert dense(moe_layer_freq=[1, 0]) == [False, True]
    assert dense(mlp_layer_types=["sparse", "dense"]) == [False, True]
    assert dense(mlp_only_layers=[1]) == [False, True]
    assert dense(decoder_sparse_step=2) == [True, False]


def test_shared_experts_are_as_wide_as_they_say() -> None:
    def shared(**more: Any) -> int:
        experts = of(**MIXTURE, **more).experts
        assert experts is not None
        return experts.shared_width

    assert shared() == 0
    assert shared(n_shared_experts=2) == 64
    assert shared(shared_expert_intermediate_size=48) == 48


def test_hybrids_have_layers_of_several_kinds() -> None:
    qwen, nemotron, oss, flash = (
        [layer.mixer for layer in card(ref).blocks]
        for ref in (
            "Qwen/Qwen3.5-397B-A17B",
            "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
            "openai/gpt-oss-20b",
            "deepseek-ai/DeepSeek-V4-Flash",
        )
    )

    assert [isinstance(mixer, GatedDelta) for mixer in qwen] == [True, True, True, False] * 15
    assert [sum(isinstance(mixer, kind) for mixer in nemotron) for kind in (Mamba, Grouped)] == [40, 8]
    assert [mixer.window for mixer in oss if isinstance(mixer, Grouped)] == [128, None] * 12
    ratios = [mixer.ratio for mixer in flash if isinstance(mixer, Compressed)]
    assert [ratios.count(ratio) for ratio in (0, 4, 128)] == [2, 21, 20]


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, {"mlp": "fp8_block", "head": "bfloat16"}),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, {"mlp": "mxfp8"}),
        ({"quant_method": "fp8"}, {"attention": "fp8"}),
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
            {"experts": "mxfp4", "attention": "bfloat16", "embedding": "bfloat16"},
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, {"mlp": "awq"}),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, {"mlp": "int8"}),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"experts": "nvfp4"}),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
                "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|down)_proj.*"],
            },
            {"experts": "int4", "attention": "bfloat16", "shared": "bfloat16", "mlp": "bfloat16"},
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            {"attention": "fp8"},
        ),
    ],
)
def test_formats_of_quantised_checkpoints(quantization: dict[str, Any], expected: dict[str, str]) -> None:
    geometry = of(**MIXTURE, quantization_config=quantization)

    assert geometry.exact
    assert {part: geometry.formats[part] for part in expected} == expected


def test_a_layer_left_alone_does_not_spare_all_layers() -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.0.self_attn*"]}

    assert of(**LLAMA, quantization_config=quantization).formats["attention"] == "nvfp4"


@pytest.mark.parametrize("quantization", [{"quant_method": "new"}, {"quant_method": "modelopt", "quant_algo": "FP3"}])
def test_an_unknown_quantiser_proves_nothing(quantization: dict[str, Any]) -> None:
    assert not of(**LLAMA, quantization_config=quantization).exact


def test_an_unknown_family_proves_nothing() -> None:
    assert not of(**LLAMA | {"model_type": "new"}).exact


def test_the_text_of_a_multimodal_model_is_what_counts() -> None:
    outer = {"model_type": "kimi_k25", "quantization_config": {"quant_method": "fp8"}, "text_config": LLAMA}

    geometry = of(**outer)

    assert geometry.exact
    assert geometry.formats["mlp"] == "fp8"
    assert geometry.parameters == of(**LLAMA).parameters


def test_a_card_may_be_like_another() -> None:
    base = f"config: {json.dumps(LLAMA)}\nweights: fp8\n"
    other = "like: a/base\ncontext_length: 9\nextra: 1000\nweights: {default: nvfp4, attention: bfloat16}\n"

    geometry = read_geometry(other, {"a/base": base})

    assert like_of(other) == "a/base"
    assert like_of(base) is None
    assert (geometry.context_length, geometry.parameters) == (9, read_geometry(base).parameters + 1000)
    assert (geometry.formats["mlp"], geometry.formats["attention"]) == ("nvfp4", "bfloat16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("like: a/nothing\n", "no card of `a/nothing`"),
        (f"config: {json.dumps(LLAMA)}\nweights: fp3\n", "does not know `fp3`"),
        (f"config: {json.dumps(LLAMA)}\nweights: {{heads: fp8}}\n", "does not know `heads`"),
        (f"config: {json.dumps(LLAMA)}\nextra: many\n", "no whole number for `extra`"),
        ("config: 5\n", "`config` is not a mapping"),
        (json.dumps(LATENT | {"v_head_dim": None}), "the shape of its layers cannot be read"),
        (json.dumps(LLAMA | {"compress_ratios": [4, 128]}), "the shape of its layers cannot be read"),
        (json.dumps(LLAMA | {"num_experts": 4, "moe_intermediate_size": [1]}), "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str) -> None:
    with pytest.raises(ModelTextError, match=message):
        read_geometry(text)


def test_cards_like_another_have_it_beside_them() -> None:
    known = {path.stem.replace("--", "/") for path in CARDS}

    likes = {like for path in CARDS if (like := like_of(path.read_text())) is not None}

    assert likes <= known
    assert not any(like_of((ROOT / f"specs/models/{ref.replace('/', '--')}.yaml").read_text()) for ref in likes)


def test_formats_count_their_scales() -> None:
    assert BITS["nvfp4"] == 4.5
    assert BITS["mxfp4"] == 4.25
    assert BITS["int4"] == 4.5


def test_experts_have_a_gate_unless_their_activation_has_none() -> None:
    gated, plain = (
        card("deepseek-ai/DeepSeek-V3").experts,
        card("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16").experts,
    )

    assert isinstance(gated, Experts)
    assert isinstance(plain, Experts)
    assert (gated.matrices, plain.matrices, plain.latent) == (3, 2, 1024)
