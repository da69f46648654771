"""Rotary position embedding with tables made once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynamoc.runtime.engines.native.models.config import Rope


class Rotary:
    """Cosines and signed sines of every position, `[positions, 1, head_dim]`, computed in float32."""

    def __init__(self, rope: Rope, head_dim: int, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies(rope, head_dim))
        cosine, sine = angles.cos(), angles.sin()
        self.half = head_dim // 2
        self.cosine = torch.cat((cosine, cosine), -1).to(device, dtype).unsqueeze(1)
        self.sine = torch.cat((-sine, sine), -1).to(device, dtype).unsqueeze(1)

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The table rows of a step's tokens, looked up once and used by every layer."""
        return self.cosine.index_select(0, positions), self.sine.index_select(0, positions)

    def rotate_(self, heads: Tensor, rows: tuple[Tensor, Tensor]) -> None:
        """Rotate `[tokens, heads, head_dim]` in place; the two halves of a head form the pairs."""
        swapped = torch.cat((heads[..., self.half :], heads[..., : self.half]), -1)
        heads.mul_(rows[0]).addcmul_(swapped, rows[1])


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position of each pair, `[head_dim / 2]`."""
    base = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.kind == "linear":
        return base / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, base)
    return base


def _llama3(rope: Rope, base: Tensor) -> Tensor:
    """Slow pairs are divided by `factor`, fast ones kept, those between blended."""
    turns = rope.original_positions * base / (2 * math.pi)
    kept = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return kept * base + (1 - kept) * base / rope.factor
