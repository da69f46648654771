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

NO_LIMIT = 2**31
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
        some = logits if len(drawn) == len(tokens) else logits[drawn]
        chosen = _draw(some, [sequences[row] for row in drawn])
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
    """Inverse transform sampling, in the order of token ids, from what temperature, top-k and top-p leave."""
    settings = [sequence.sampling for sequence in sequences]
    weights = logits.div_(torch.tensor([[setting.temperature] for setting in settings])).softmax(-1)
    restricted = [row for row, setting in enumerate(settings) if setting.top_k > 0 or setting.top_p < 1.0]
    if restricted:
        top_k = torch.tensor([[settings[row].top_k if settings[row].top_k > 0 else NO_LIMIT] for row in restricted])
        top_p = torch.tensor([[settings[row].top_p] for row in restricted])
        some = weights[restricted]
        weights[restricted] = some.masked_fill(some < _least_weight(some, top_k, top_p), 0)
    sums = weights.cumsum(-1)  # adds in float64 whatever the result's dtype
    draws = [[uniform(sequence.sampling.seed, sequence.output_index)] for sequence in sequences]
    total = sums[:, -1:]
    # Rounding must not reach the total: the first sum above the draw then has a weight of its own.
    share = torch.minimum(torch.tensor(draws) * total, total.nextafter(torch.zeros_like(total)))
    tokens: list[int] = torch.searchsorted(sums, share, right=True).squeeze(1).tolist()
    return tokens


def _least_weight(weights: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """The smallest weight kept, `[rows, 1]`; equal weights stay together. Top-p counts the mass that top-k left."""
    ordered = torch.from_numpy(np.sort(weights.numpy(), -1)).flip(-1)  # torch's own sort takes fifteen times as long
    ordered.masked_fill_(torch.arange(ordered.shape[1]) >= top_k, 0)
    sums = ordered.cumsum(-1)
    kept = (sums - ordered < top_p * sums[:, -1:]).sum(-1, keepdim=True).clamp_(min=1)
    return ordered.gather(1, kept - 1)


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
