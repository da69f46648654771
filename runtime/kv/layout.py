"""Where a block's bytes are: one block-major pool `[block][layer][k/v][head][token][dim]`."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec


class Span(NamedTuple):
    """`size` bytes of every block, from its byte `start` on."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The byte behind the last."""
        return self.start + self.size


class Heads(msgspec.Struct, frozen=True):
    """The KV heads of one rank: `count` from `first` on, of the model's `total`."""

    first: int
    count: int
    total: int


class KvLayout(msgspec.Struct, frozen=True):
    """Shape of a KV pool. A block is one contiguous run of `block_bytes`; blocks follow each other without gaps.

    `heads` and `head_dim` are per rank. `item_bytes` is the size of one element of `dtype`.
    """

    layers: int
    heads: int
    head_dim: int
    block_size: int
    dtype: str
    item_bytes: int
    parts: int = 2
    """2: keys and values; 1: one latent (MLA)."""

    @property
    def run_bytes(self) -> int:
        """Bytes of one head of one token, which are together in every order."""
        return self.head_dim * self.item_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self.layers * self.parts * self.heads * self.block_size * self.run_bytes

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer of a block."""
        return self.block_bytes // self.layers

    def span(self, layers: range | None) -> Span:
        """Where these consecutive layers are in a block; None means all. ValueError if it has no such layers."""
        if layers is None:
            return Span(0, self.block_bytes)
        if layers.step != 1 or not 0 <= layers.start < layers.stop <= self.layers:
            raise ValueError(f"{layers} are no layers of {self.layers}")
        return Span(layers.start * self.layer_bytes, len(layers) * self.layer_bytes)

    def digest(self, model: str) -> str:
        """Names what the bytes mean: equal digests may exchange blocks byte for byte."""
        facts = (1, model, self.layers, self.parts, self.heads, self.head_dim, self.block_size, self.dtype)
        return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def all_heads(layout: KvLayout) -> Heads:
    """Those of a rank that has all of the model's."""
    return Heads(0, layout.heads, layout.heads)
