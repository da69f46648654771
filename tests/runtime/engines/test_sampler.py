"""Which token is chosen: by hand-made distributions, and by counting."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.engines.native.sampler import NotFiniteError, sample, uniform
from dynamoc.runtime.engines.native.sequence import Sequence
from dynamoc.runtime.plane.messages import Sampling

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 2.5, 0.0])


def sequence(tokens=(9, 9), prompt=2, generated=0, **settings) -> Sequence:
    wanted = Sampling(**{"max_tokens": 8, "temperature": 1.0, **settings})
    return Sequence(0, list(tokens), prompt, wanted, generated=generated)


def draw(logits: torch.Tensor, *sequences: Sequence) -> list[int]:
    rows = logits.expand(len(sequences), -1).clone()
    return [sampled.token for sampled in sample(rows, sequences)]


def draws(logits: torch.Tensor, count: int, **settings) -> Counter[int]:
    return Counter(draw(logits, *(sequence(seed=seed, **settings) for seed in range(count))))


def test_temperature_zero_and_nearly_zero_are_greedy():
    assert draw(LOGITS, sequence(temperature=0.0), sequence(temperature=1e-6)) == [1, 1]


def test_a_low_temperature_sharpens_without_overflow():
    assert draws(LOGITS, 50, temperature=0.01) == {1: 50}


def test_frequencies_follow_the_distribution():
    counts = draws(LOGITS, 4000, temperature=1.5)
    probabilities = (LOGITS / 1.5).softmax(-1)
    for token, probability in enumerate(probabilities.tolist()):
        spread = math.sqrt(4000 * probability * (1 - probability))
        assert abs(counts[token] - 4000 * probability) < 4.5 * spread


def test_top_k_keeps_the_best():
    assert set(draws(LOGITS, 400, top_k=3)) == {1, 4, 2}
    assert set(draws(LOGITS, 50, top_k=1)) == {1}


def test_top_k_beyond_the_vocabulary_changes_nothing():
    assert draws(LOGITS, 300, top_k=100) == draws(LOGITS, 300, top_k=6)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    first, second, third = sorted(LOGITS.softmax(-1).tolist(), reverse=True)[:3]
    assert set(draws(LOGITS, 400, top_p=first - 0.01)) == {1}
    assert set(draws(LOGITS, 400, top_p=first + 0.01)) == {1, 4}
    assert set(draws(LOGITS, 400, top_p=first + second + third / 2)) == {1, 4, 2}
    assert set(draws(LOGITS, 50, top_p=0.0)) == {1}


def test_top_p_counts_what_top_k_left():
    first, second = sorted(LOGITS.softmax(-1).tolist(), reverse=True)[:2]
    share = first / (first + second)

    assert set(draws(LOGITS, 400, top_k=2, top_p=share - 0.01)) == {1}
    assert set(draws(LOGITS, 400, top_k=2, top_p=share + 0.01)) == {1, 4}


@pytest.mark.parametrize("spread", [1.0, 4.0, 12.0])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.3, 0), (0.9, 0), (0.999, 0), (0.9, 50), (1.0, 7)])
def test_what_is_kept_in_a_real_vocabulary(spread, top_p, top_k):
    logits = torch.randn(49152, generator=torch.Generator().manual_seed(1)) * spread
    order = logits.argsort(descending=True).tolist()
    kept, mass = [], 0.0
    weights = logits.double().softmax(-1)
    candidates = order[: top_k or None]
    share = float(weights[candidates].sum()) * top_p
    for token in candidates:
        if mass >= share:
            break
        kept.append(token)
        mass += float(weights[token])

    drawn = set(draws(logits, 100, top_p=top_p, top_k=top_k))
    assert drawn <= set(order[: len(kept) + 1])
    assert len(kept) > 5 or drawn == set(kept)


def test_equal_logits_are_all_in_reach_and_nothing_else_is():
    logits = torch.full((4000,), -torch.inf)
    logits[1000:1100] = 0.0

    assert set(draws(logits, 400, top_p=0.5)) <= set(range(1000, 1100))
    assert len(draws(logits, 400)) > 80


def test_a_draw_depends_on_seed_and_index_alone():
    noise = torch.randn(7, 300, generator=torch.Generator().manual_seed(2))
    settings: list[dict[str, object]] = [
        {"seed": 11},
        {"seed": 12, "top_p": 0.8},
        {"temperature": 0.0},
        {"seed": 11, "top_k": 5},
        {"seed": 3, "temperature": 2.0},
        {"seed": 11, "logprobs": 2},
        {"seed": 4, "presence_penalty": 1.0},
    ]
    sequences = [sequence(**setting) for setting in settings]
    together = [sampled.token for sampled in sample(noise.clone(), sequences)]
    alone = [sample(noise[row : row + 1].clone(), [one])[0].token for row, one in enumerate(sequences)]

    assert together == alone


def test_a_replay_draws_the_same_number():
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(3))
    first = sequence(tokens=[5, 6, 7, 8, 8], prompt=2, seed=21)
    replayed = sequence(tokens=[5, 6, 7, 8, 8], prompt=5, generated=3, seed=21)

    assert sample(logits.clone(), [first]) == sample(logits.clone(), [replayed])
    later = sequence(tokens=[5, 6, 7, 8, 8, 9], prompt=2, seed=21)
    assert uniform(21, first.output_index) != uniform(21, later.output_index)


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 10**6))
def test_uniform_is_in_range_and_repeats(seed, index):
    assert 0.0 <= uniform(seed, index) < 1.0
    assert uniform(seed, index) == uniform(seed, index)


def test_uniform_is_uniform_over_seeds_and_over_indices():
    for numbers in ([uniform(seed, 0) for seed in range(2000)], [uniform(7, index) for index in range(2000)]):
        bins = Counter(int(number * 10) for number in numbers)
        assert sum((bins[b] - 200) ** 2 / 200 for b in range(10)) < 30  # chi-square, 9 degrees: p < 0.0005


def test_presence_is_charged_once_and_frequency_each_time_for_output_only():
    logits = torch.tensor([2.0, 2.5, 2.2])
    seen = {"tokens": [1, 1, 1, 1], "temperature": 0.0}

    assert draw(logits, sequence(prompt=4, presence_penalty=2.0, **seen)) == [1]
    assert draw(logits, sequence(prompt=2, presence_penalty=0.2, **seen)) == [1]
    assert draw(logits, sequence(prompt=2, frequency_penalty=0.2, **seen)) == [2]
    assert draw(logits, sequence(prompt=4, generated=2, frequency_penalty=0.2, **seen)) == [2]
    assert draw(logits, sequence(prompt=2, frequency_penalty=-0.2, **seen)) == [1]


def test_logprobs_are_the_models_own():
    settings = {"temperature": 0.0, "presence_penalty": 2.0}
    (sampled,) = sample(LOGITS[None].clone(), [sequence(tokens=[9, 1], prompt=1, logprobs=2, **settings)])
    expected = LOGITS.log_softmax(-1)

    assert sampled.token == 4
    assert sampled.logprob is not None
    assert sampled.logprob.logprob == pytest.approx(float(expected[4]))
    assert [token for token, _ in sampled.logprob.top] == [1, 4]
    assert sampled.logprob.top[0][1] == pytest.approx(float(expected[1]))


def test_logprobs_without_alternatives_and_without_anything():
    with_none, without = sample(LOGITS.expand(2, -1).clone(), [sequence(logprobs=0), sequence()])

    assert with_none.logprob is not None
    assert with_none.logprob.top == ()
    assert without.logprob is None


def test_more_alternatives_than_tokens_are_all_tokens():
    (sampled,) = sample(LOGITS[None].clone(), [sequence(logprobs=20)])

    assert sampled.logprob is not None
    assert len(sampled.logprob.top) == len(LOGITS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_stop_the_engine(bad):
    logits = LOGITS[None].clone()
    logits[0, 3] = bad

    with pytest.raises(NotFiniteError):
        sample(logits, [sequence(temperature=0.0)])
