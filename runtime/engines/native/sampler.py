"""Choose tokens from logits: greedy for the whole batch at once, the rest only for the rows that ask for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as List

import numpy as np
import torch
from torch import Tensor

from dynamoc.runtime.engines.native.sequence import Sampled, Sequence
from dynamoc.runtime.plane.messages import TokenLogprob

GREEDY_BELOW = 1e-5
"""Temperatures under this mean greedy: dividing by them would overflow."""

CANDIDATES = 1024
"""How many of the best tokens top-p looks at before it sorts the whole vocabulary."""

SEED_MASK = 2**64 - 1


class NotFiniteError(ArithmeticError):
    """The model produced logits that are not numbers."""


def sample(logits: Tensor, sequences: List[Sequence]) -> list[Sampled]:
    """One token per row of float32 `[rows, vocabulary]`; `logits` may be changed."""
    logprobs = _LogprobRows(logits, sequences)
    _penalise(logits, sequences)
    best, ids = logits.max(-1)
    if not bool(best.isfinite().all()):
        raise NotFiniteError("the model produced logits that are not finite")
    tokens: list[int] = ids.tolist()
    drawn = [row for row, sequence in enumerate(sequences) if sequence.sampling.temperature >= GREEDY_BELOW]
    if drawn:
        chosen = _draw(logits[drawn], [sequences[row] for row in drawn])
        for row, token in zip(drawn, chosen, strict=True):
            tokens[row] = token
    return [Sampled(token, logprobs.of(row, token)) for row, token in enumerate(tokens)]


def uniform(seed: int, index: int) -> float:
    """The number in [0, 1) that decides output token `index` of a request, whatever else is in the batch."""
    return float(np.random.Philox(key=seed & SEED_MASK, counter=index).random_raw() >> 11) * 2.0**-53


def _penalise(logits: Tensor, sequences: List[Sequence]) -> None:
    for row, sequence in enumerate(sequences):
        presence, frequency = sequence.sampling.presence_penalty, sequence.sampling.frequency_penalty
        if presence or frequency:
            counts = Counter(sequence.tokens[sequence.prompt_tokens - sequence.generated :])
            penalties = torch.tensor([presence + frequency * count for count in counts.values()])
            logits[row, list(counts)] -= penalties


def _draw(logits: Tensor, sequences: List[Sequence]) -> list[int]:
    """Inverse transform sampling from what temperature, top-k and top-p leave."""
    settings = [sequence.sampling for sequence in sequences]
    scaled = logits / torch.tensor([[setting.temperature] for setting in settings])
    numbers = torch.tensor(
        [uniform(sequence.sampling.seed, sequence.output_index) for sequence in sequences], dtype=torch.float64
    )
    restricted = [row for row, setting in enumerate(settings) if setting.top_k > 0 or setting.top_p < 1.0]
    tokens = torch.empty(len(settings), dtype=torch.int64)
    free = [row for row in range(len(settings)) if row not in set(restricted)]
    if free:
        tokens[free] = _invert(scaled[free].softmax(-1), numbers[free])
    if restricted:
        top_k = torch.tensor(
            [[settings[row].top_k if settings[row].top_k > 0 else logits.shape[1]] for row in restricted]
        )
        top_p = torch.tensor([[settings[row].top_p] for row in restricted])
        tokens[restricted] = _draw_restricted(scaled[restricted], top_k, top_p, numbers[restricted])
    drawn: list[int] = tokens.tolist()
    return drawn


def _draw_restricted(scaled: Tensor, top_k: Tensor, top_p: Tensor, numbers: Tensor) -> Tensor:
    """Top-p counts the mass that top-k left; the best token always stays."""
    width, best = scaled.shape[1], min(CANDIDATES, scaled.shape[1])
    total = scaled.logsumexp(-1, keepdim=True)
    values, ids = scaled.topk(best)
    probabilities = (values - total).exp()
    if bool(((top_k > best) & (probabilities.sum(-1, keepdim=True) < top_p)).any()):
        values, ids = scaled.topk(width)
        probabilities = (values - total).exp()
    probabilities.masked_fill_(torch.arange(probabilities.shape[1]) >= top_k, 0)
    before = probabilities.cumsum(-1) - probabilities
    # Without top-k the mass is 1; summed over the candidates alone it would be less and top-p stricter.
    mass = torch.where(top_k >= width, 1.0, probabilities.sum(-1, keepdim=True))
    dropped = before >= top_p * mass
    dropped[:, 0] = False
    return ids.gather(1, _invert(probabilities.masked_fill_(dropped, 0), numbers).unsqueeze(1)).squeeze(1)


def _invert(weights: Tensor, numbers: Tensor) -> Tensor:
    """The first column per row where the running sum exceeds the row's share of the total."""
    sums = weights.to(torch.float64).cumsum(-1)
    found = torch.searchsorted(sums, (numbers * sums[:, -1]).unsqueeze(1), right=True).squeeze(1)
    return found.clamp_(max=weights.shape[1] - 1)


class _LogprobRows:
    """Log-probabilities of the model itself, before penalties and temperature, for the rows that want them."""

    def __init__(self, logits: Tensor, sequences: List[Sequence]) -> None:
        wanted = {
            row: sequence.sampling.logprobs for row, sequence in enumerate(sequences) if sequence.sampling.logprobs >= 0
        }
        self.rows = {row: logits[row].log_softmax(-1) for row in wanted}
        self.alternatives = wanted

    def of(self, row: int, token: int) -> TokenLogprob | None:
        """What the chosen token and the best alternatives had; None if nobody asked."""
        if row not in self.rows:
            return None
        values, ids = self.rows[row].topk(min(self.alternatives[row], len(self.rows[row])))
        return TokenLogprob(float(self.rows[row][token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
