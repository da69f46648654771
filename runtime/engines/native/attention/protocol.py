"""The seam between a model and how its attention is computed over the KV pool."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dynamoc.runtime.engines.native.batch import Batch


class Attention(Protocol):
    """Bound to one pool. Used from one thread."""

    def plan(self, batch: Batch) -> None:
        """Prepare indices and masks for a step; all layers of the step use them."""
        ...

    def run(self, layer: int, qkv: Tensor) -> Tensor:
        """Store keys and values of `[tokens, heads + 2 × kv_heads, head_dim]`, rotated, in the pool; attend.

        The result is `[tokens, heads, head_dim]`.
        """
        ...
