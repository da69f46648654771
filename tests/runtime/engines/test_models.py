"""Model families against transformers, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import VOCABULARY, decode, edit_config, load_runner, prefill, sequence, worker_settings, write_model

from dynamoc.runtime.engines.native.models.config import UnsupportedModelError, read_config
from dynamoc.runtime.engines.native.runner import TorchRunner
from dynamoc.runtime.engines.native.weights import WeightsError

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-rope-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}}),
    "llama-rope-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-ungrouped": ("llama", {"num_attention_heads": 4, "num_key_value_heads": 4}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "qwen3": ("qwen3", {}),
    "qwen3-bias": ("qwen3", {"attention_bias": True}),
}


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def expected_logprobs(model, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)


def assert_same(sampled, expected: torch.Tensor, tolerance: float = 2e-4) -> None:
    assert sampled.token == int(expected.argmax())
    for token, logprob in sampled.logprob.top:
        assert logprob == pytest.approx(float(expected[token]), abs=tolerance)
    assert len(sampled.logprob.top) == VOCABULARY


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_transformers_does(family, tmp_path):
    model_type, changes = FAMILIES[family]
    model = write_model(tmp_path, model_type, **changes)
    runner = load_runner(tmp_path)
    ids = prompt(90)
    one = sequence(ids, list(range(40, 64)), logprobs=VOCABULARY)

    (sampled,) = prefill(runner, one)
    assert_same(sampled, expected_logprobs(model, ids))
    one.tokens.append(sampled.token)
    (sampled,) = decode(runner, one)
    assert_same(sampled, expected_logprobs(model, one.tokens))
    runner.close()


def test_both_spellings_of_rope_mean_the_same(tmp_path):
    model = write_model(tmp_path, rope_parameters=LLAMA3)
    older = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    edit_config(tmp_path, rope_parameters=None, rope_theta=LLAMA3["rope_theta"], rope_scaling=older)
    runner = load_runner(tmp_path)
    ids = prompt(100)

    (sampled,) = prefill(runner, sequence(ids, list(range(30)), logprobs=VOCABULARY))
    assert_same(sampled, expected_logprobs(model, ids))
    runner.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("compute", ["auto", "declared"])
def test_sixteen_bit_weights_stay_close(dtype, compute, tmp_path):
    model = write_model(tmp_path, initializer_range=0.1)
    runner = load_runner(tmp_path, dtype=dtype, args={} if compute == "auto" else {"compute_dtype": dtype})
    ids = prompt(50)
    one = sequence(ids, list(range(20)), logprobs=VOCABULARY)

    (sampled,) = prefill(runner, one)
    expected = expected_logprobs(model, ids)
    got = torch.tensor([logprob for _, logprob in sorted(sampled.logprob.top)])
    assert (got - expected).abs().max() < 0.15
    assert runner.layout().dtype == dtype
    assert runner.layout().item_bytes == 2
    runner.close()


def test_sharded_weights_are_read_through_their_index(tmp_path):
    model = write_model(tmp_path)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    (tmp_path / "model.safetensors").unlink()
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    runner = load_runner(tmp_path)
    ids = prompt(20)

    (sampled,) = prefill(runner, sequence(ids, list(range(10)), logprobs=VOCABULARY))
    assert_same(sampled, expected_logprobs(model, ids))
    runner.close()


REFUSALS = {
    "architecture": ({"architectures": ["GemmaForCausalLM"]}, r"architecture \['GemmaForCausalLM'\] is not supported"),
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
    "activation": ({"hidden_act": "gelu"}, "activation `gelu`"),
    "window": ({"sliding_window": 64}, "sliding window of 64 is shorter than the context of 128"),
    "rope": ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling `yarn`"),
    "dynamic rope": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling `dynamic`"),
    "partial rope": ({"partial_rotary_factor": 0.5}, "part of each head"),
    "lacking": ({"num_hidden_layers": None}, "missing required field `num_hidden_layers`"),
    "heads": ({"num_key_value_heads": 2}, "9 query heads do not divide over 2 KV heads"),
    "positions": ({"max_position_embeddings": 100}, "128 tokens is asked for, the model has 100"),
    "a word for a number": ({"hidden_size": "wide"}, r"Expected `int`, got `str` - at `\$.hidden_size`"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_implemented_is_refused_in_words(case, tmp_path):
    changes, message = REFUSALS[case]
    write_model(tmp_path)
    edit_config(tmp_path, **changes)

    with pytest.raises(UnsupportedModelError, match=message):
        read_config(tmp_path, 128)


def test_a_window_longer_than_the_context_does_not_matter(tmp_path):
    write_model(tmp_path, "mistral", sliding_window=128)

    assert read_config(tmp_path, 128).layers == 2


def test_ends_of_sequence_come_from_both_files(tmp_path):
    write_model(tmp_path)
    edit_config(tmp_path, eos_token_id=7)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 9]}))

    assert read_config(tmp_path, 128).eos_token_ids == {7, 8, 9}


@pytest.mark.parametrize(
    ("text", "message"), [("{", "config.json: Input data was truncated"), ("[]", "Expected `object`, got `array`")]
)
def test_a_broken_configuration_is_named(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(UnsupportedModelError, match=message):
        read_config(tmp_path, 128)


def test_a_folder_without_configuration_is_named(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"config\.json does not exist"):
        read_config(tmp_path, 128)


def test_everything_wrong_with_the_weights_is_said_at_once(tmp_path):
    write_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.extra.weight"] = torch.zeros(3)
    tensors["lm_head.weight"] = torch.zeros(VOCABULARY, 60)
    tensors["model.layers.1.input_layernorm.weight"] = torch.zeros(72, dtype=torch.int32)
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(WeightsError) as caught:
        load_runner(tmp_path)
    text = str(caught.value)
    assert "missing model.norm.weight" in text
    assert "unexpected model.extra.weight" in text
    assert "lm_head.weight is (160, 60), the configuration says (160, 72)" in text
    assert "input_layernorm.weight is I32" in text


def test_files_that_are_not_there_or_not_safetensors_are_named(tmp_path):
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match=r"model\.safetensors is not a safetensors file"):
        load_runner(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds neither"):
        load_runner(tmp_path)
    index = {"weight_map": {"model.norm.weight": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"lacks model-1\.safetensors"):
        load_runner(tmp_path)


def test_settings_the_runner_cannot_obey_are_refused(tmp_path):
    write_model(tmp_path)
    with pytest.raises(UnsupportedModelError, match="device `cuda`"):
        TorchRunner(worker_settings(device="cuda"), tmp_path)
    with pytest.raises(UnsupportedModelError, match="kv dtype `fp8`"):
        TorchRunner(worker_settings(kv_dtype="fp8"), tmp_path)
    with pytest.raises(ValueError, match="no argument `tread`; it knows: compute_dtype, threads, weights"):
        TorchRunner(worker_settings(args={"tread": 1}), tmp_path)
    with pytest.raises(ValueError, match="compute_dtype"):
        TorchRunner(worker_settings(args={"compute_dtype": "int8"}), tmp_path)
