"""The runner under the scheduler: however a request is computed, its tokens are the same, and those of transformers."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from driving import Core, request, send
from tiny import VOCABULARY, decode, load_runner, prefill, sequence, worker_settings, write_model

from dynamoc.runtime.engines.native.runner import TorchRunner
from dynamoc.runtime.engines.native.sequence import Chunk, Step
from dynamoc.runtime.engines.registry import make_engine

SMOLLM2 = (
    Path(os.environ.get("DYNAMOC_MODEL_ROOT", "~/.cache/dynamoc/models")).expanduser()
    / "HuggingFaceTB/SmolLM2-135M-Instruct"
)
LENGTHS = [1, 2, 3, 5, 4, 16, 17, 40, 33, 8]
"""Prompt lengths around block boundaries of four tokens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    write_model(path)
    return path


@pytest.fixture(scope="module")
def prompts():
    generator = random.Random(4)
    return [[generator.randrange(2, VOCABULARY) for _ in range(length)] for length in LENGTHS]


SAMPLINGS: list[dict[str, object]] = [
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 5},
    {"temperature": 0.7, "seed": 6, "top_p": 0.8, "presence_penalty": 0.5},
]


def make_core(folder: Path, **changes) -> Core:
    worker = worker_settings(**changes)
    return Core(worker, TorchRunner(worker, folder))


def run_all(core: Core, prompts: list[list[int]]) -> dict[int, list[int]]:
    for key, prompt in enumerate(prompts):
        core.scheduler.add(request(key, prompt, 12, **SAMPLINGS[key % len(SAMPLINGS)]))
    core.run()
    return {key: core.tokens[key] for key in range(len(prompts))}


@pytest.fixture(scope="module")
def alone(folder, prompts):
    """Each request by itself: prompt at once, no cache. What all other ways must give."""
    core = make_core(folder, prefix_caching=False)
    for key, prompt in enumerate(prompts):
        core.scheduler.add(request(key, prompt, 12, **SAMPLINGS[key % len(SAMPLINGS)]))
        core.run()
    core.close()
    assert all(len(core.tokens[key]) == 12 for key in range(len(prompts)))
    return dict(core.tokens)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_sequences": 16, "max_batched_tokens": 256},
        {"max_batched_tokens": 7},
        {"max_batched_tokens": 24, "max_sequences": 3, "block_size": 16},
        {"max_sequences": 16, "block_size": 1, "blocks": 256},
    ],
    ids=["batched", "chunked", "few at a time", "one token a block"],
)
def test_batching_and_chunks_change_nothing(folder, prompts, alone, changes):
    core = make_core(folder, **changes)

    assert run_all(core, prompts) == alone
    core.close()


def test_preemption_changes_nothing(folder, prompts, alone):
    core = make_core(folder, blocks=16, max_sequences=8)

    assert run_all(core, prompts) == alone
    assert core.report.stats.preemptions > 0
    core.close()


def test_prefix_hits_change_nothing(folder, prompts, alone):
    core = make_core(folder, blocks=256)
    run_all(core, prompts)
    again = {key + 100: request(key + 100, prompt, 12, **SAMPLINGS[key % 3]) for key, prompt in enumerate(prompts)}
    for wanted in again.values():
        core.scheduler.add(wanted)
    core.run()

    assert {key - 100: core.tokens[key] for key in again} == alone
    assert core.cached[107] == 36, "nine full blocks; the last must be computed to sample"
    core.close()


def test_kv_computed_elsewhere_changes_nothing(folder, prompts, alone):
    source, target = make_core(folder), make_core(folder)
    for key, prompt in enumerate(prompts):
        sampling = SAMPLINGS[key % len(SAMPLINGS)]
        source.scheduler.add(request(key, prompt, 12, hold_kv=True, **sampling))
        target.scheduler.reserve(request(key, prompt, 12, **sampling))
        source.run()
        target.run()
        send(source.pool, source.prefilled[key], target.pool, target.reserved[key])
        source.scheduler.release(key)
        target.scheduler.resume(key, source.prefilled[key].output)
        target.run()

    assert {key: source.tokens[key] + target.tokens[key] for key in alone} == alone
    source.close()
    target.close()


def test_a_replay_with_generated_tokens_goes_on_as_before(folder, prompts, alone):
    core = make_core(folder)
    for key, prompt in enumerate(prompts):
        so_far = alone[key][:5]
        core.scheduler.add(request(key, prompt + so_far, 12, generated=5, **SAMPLINGS[key % len(SAMPLINGS)]))
    core.run()

    assert {key: core.tokens[key] for key in alone} == {key: tokens[5:] for key, tokens in alone.items()}
    core.close()


def test_a_step_of_lengths_that_need_groups_equals_each_alone(folder):
    lengths = [100, 1, 90, 2, 50, 3, 110, 4]
    runner = load_runner(folder, blocks=256)
    generator = torch.Generator().manual_seed(9)
    sequences, used = [], 0
    for length in lengths:
        tokens = torch.randint(2, VOCABULARY, (length,), generator=generator).tolist()
        blocks = list(range(used, used + length // 4 + 1))
        used += len(blocks)
        sequences.append(sequence(tokens, blocks[::-1], logprobs=3))
    for one, sampled in zip(sequences, prefill(runner, *sequences), strict=True):
        one.tokens.append(sampled.token)
    together = decode(runner, *sequences)

    assert len({len(one.blocks) for one in sequences}) > 4
    for one, sampled in zip(sequences, together, strict=True):
        (by_itself,) = decode(runner, one)
        assert sampled.token == by_itself.token
        assert sampled.logprob.logprob == pytest.approx(by_itself.logprob.logprob, abs=1e-4)
    runner.close()


def test_old_bytes_in_a_block_are_never_seen(folder):
    clean, dirty = load_runner(folder), load_runner(folder)
    torch.frombuffer(dirty.pool().data, dtype=torch.float32).fill_(1e30)
    ids = list(range(2, 23))
    expected = prefill(clean, sequence(ids, list(range(6)), logprobs=5))

    one = sequence(ids, list(range(6)), logprobs=5)
    assert prefill(dirty, one) == expected
    one.tokens.append(3)
    other = sequence([*ids, 3], list(range(6)), logprobs=5)
    assert decode(dirty, one) == decode(clean, other)
    clean.close()
    dirty.close()


def test_a_step_without_samples_only_writes_kv(folder):
    runner = load_runner(folder)
    one = sequence(list(range(2, 12)), [0, 1, 2])

    assert runner.execute(Step((Chunk(one, 0, 6, sample=False),))) == []
    assert any(bytes(runner.pool().block(1)))
    assert not any(bytes(runner.pool().block(2)))
    runner.close()


def test_loading_reports_progress_and_leaves_a_clean_pool(folder):
    seen: list[tuple[float, str]] = []
    runner = TorchRunner(worker_settings(), folder)
    runner.load(lambda fraction, what: seen.append((fraction, what)))

    assert seen[-1] == (1.0, "ready")
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    assert not any(bytes(runner.pool().data))
    runner.close()
    runner.close()


@pytest.mark.parametrize("blocks", [2, 3])
def test_the_smallest_pool_serves(folder, blocks):
    core = make_core(folder, blocks=blocks, block_size=1, context_length=2)
    core.scheduler.add(request(1, [5], 1, temperature=0.0))
    core.run()

    assert len(core.tokens[1]) == 1
    core.close()


def test_the_pools_dtype_may_be_smaller_than_the_models(folder, prompts):
    core = make_core(folder, kv_dtype="bfloat16", max_batched_tokens=9)
    runner = load_runner(folder, kv_dtype="bfloat16")
    core.scheduler.add(request(1, prompts[7], 3, temperature=0.0, logprobs=0))
    core.run()
    (whole,) = prefill(runner, sequence(prompts[7], list(range(11))))

    assert core.tokens[1][0] == whole.token
    assert core.pool.layout.block_bytes * 2 == make_runner_layout(folder).block_bytes
    core.close()
    runner.close()


def make_runner_layout(folder: Path):
    return TorchRunner(worker_settings(), folder).layout()


# ---- the real model ---------------------------------------------------------------------------------------

QUESTIONS = [
    "What is the capital of France?",
    "Hi",
    "Write one sentence about the sea.",
    "def fibonacci(n):",
    "Summarise: The quick brown fox jumps over the lazy dog. It does so every day at noon, rain or shine.",
    "1, 2, 3, 4,",
    "Translate to French: good morning",
    "Name three colours.",
    "Why is the sky blue? Explain for a child, please, and use simple words only.",
    "Ünïcödé 🙂 and emoji?",
]


@pytest.fixture(scope="module")
def chats():
    """Twenty prompts of mixed length: with the chat template, and as they are after a longer beginning."""
    if not (SMOLLM2 / "config.json").exists():
        pytest.skip("no SmolLM2 folder: run `dynamoc model fetch smollm2`")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    templated = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for text in QUESTIONS
    ]
    longer = [" ".join(QUESTIONS[: index + 1]) + " In short:" for index in range(len(QUESTIONS))]
    return tokenizer, [tokenizer(text, add_special_tokens=False)["input_ids"] for text in templated + longer]


@pytest.mark.model
def test_greedy_text_is_that_of_transformers(chats):
    from transformers import AutoModelForCausalLM

    tokenizer, prompts = chats
    core = make_core(SMOLLM2, block_size=16, blocks=512, context_length=512, max_batched_tokens=128, max_sequences=20)
    for key, prompt in enumerate(prompts):
        core.scheduler.add(request(key, prompt, 16, temperature=0.0))
    core.run()
    core.close()
    model = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32)
    for key, prompt in enumerate(prompts):
        ours = core.tokens[key]
        assert len(ours) == 16 or ours[-1] == tokenizer.eos_token_id
        # What it would say after each of these beginnings: all equal to ours is its greedy text, by induction.
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ours[:-1]]), logits_to_keep=len(ours)).logits[0]
        expected = logits.argmax(-1).tolist()
        assert ours == expected, f"{tokenizer.decode(ours)!r} != {tokenizer.decode(expected)!r}"
    assert tokenizer.decode(core.tokens[0], skip_special_tokens=True) == "The capital of France is Paris."


@pytest.mark.model
def test_bfloat16_stays_close_to_float32(chats):
    _, prompts = chats
    logprobs = {}
    for dtype in ("float32", "bfloat16"):
        runner = load_runner(SMOLLM2, dtype=dtype, block_size=16, blocks=128, context_length=512)
        sequences = [
            sequence(ids, list(range(8 * row, 8 * row + 8)), logprobs=3) for row, ids in enumerate(prompts[:6])
        ]
        logprobs[dtype] = [dict(sampled.logprob.top) for sampled in prefill(runner, *sequences)]
        runner.close()

    for exact, rounded in zip(logprobs["float32"], logprobs["bfloat16"], strict=True):
        shared = exact.keys() & rounded.keys()
        assert shared
        assert all(abs(exact[token] - rounded[token]) < 0.4 for token in shared)


@pytest.mark.model
def test_the_registry_makes_it(chats):
    engine = make_engine(worker_settings(), SMOLLM2, "smol")

    assert engine.layout().heads == 3
    engine.stop()
