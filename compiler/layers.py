"""The parts of a layer: what each holds in weights and how it is cut over ranks, and what it keeps of a sequence."""

from __future__ import annotations

from enum import StrEnum

import msgspec

STATE_BYTES = 4
"""Recurrent states are kept in float32."""


class Cut(StrEnum):
    """Which group of ranks shares a matrix."""

    NONE = "none"
    """Every rank has all of it."""
    HEADS = "heads"
    """The ranks that share the attention heads of a token."""
    TENSOR = "tensor"
    """The ranks that share a dense MLP."""
    SHARED = "shared"
    """The ranks that share the experts which every token takes."""
    VOCABULARY = "vocabulary"
    """The ranks that share the embedding and the head."""
    EXPERTS = "experts"
    """The ranks over which routed experts are spread, whole or in slices."""


class Weight(msgspec.Struct, frozen=True):
    """Elements of one kind. `part` names the kind that a number format is given to; `units` bounds the cut."""

    part: str
    elements: int
    cut: Cut = Cut.NONE
    units: int | None = None
    """KV heads and the like: more ranks than units hold copies."""

    def per_rank(self, ranks: int) -> float:
        """Elements on one of `ranks`."""
        return self.elements / min(ranks, self.units or ranks)


class Cache(msgspec.Struct, frozen=True):
    """What one layer keeps of one sequence on one rank."""

    elements: float = 0.0
    """Per token, in the type of the KV cache."""
    extra_bytes: float = 0.0
    """Per token, in a type of their own."""
    window: int | None = None
    """Tokens that are kept; None: all."""
    state_bytes: float = 0.0
    """Whatever the length."""


class Grouped(msgspec.Struct, frozen=True):
    """Attention whose query heads share KV heads; `window` tokens back, or all."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    gated: bool = False
    """A gate as wide as the queries."""
    bias: bool = False
    index_dim: int = 0
    """Width of the key that an indexer keeps of each token, with a query of as much for each KV head."""

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Queries, keys and values, output."""
        query = self.heads * self.head_dim * (2 if self.gated else 1)
        keys = self.kv_heads * (self.head_dim + self.value_dim)
        rows = hidden + (1 if self.bias else 0)
        output = self.heads * self.value_dim * hidden + (hidden if self.bias else 0)
        index = hidden * self.index_dim * (self.kv_heads + 1) if self.index_dim else 0
        return (
            Weight("attention", rows * query + output, Cut.HEADS),
            Weight("attention", rows * keys, Cut.HEADS, self.kv_heads),
            Weight("attention", index),
        )

    def cache(self, ranks: int) -> Cache:
        """Keys and values of the KV heads of a rank."""
        heads = self.kv_heads / min(ranks, self.kv_heads)
        return Cache(heads * (self.head_dim + self.value_dim) + self.index_dim, window=self.window)


class Indexer(msgspec.Struct, frozen=True):
    """Chooses the tokens that sparse attention looks at; its keys are cached beside the KV."""

    heads: int
    head_dim: int

    def weights(self, hidden: int, query_rank: int) -> Weight:
        """Every rank has it whole."""
        return Weight("attention", query_rank * self.heads * self.head_dim + hidden * (self.head_dim + self.heads))

    @property
    def key_bytes(self) -> int:
        """One byte an element and one scale."""
        return self.head_dim + 4


class Latent(msgspec.Struct, frozen=True):
    """Multi-head latent attention: a token leaves one vector, which every rank keeps whole."""

    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    indexer: Indexer | None = None

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Down-projections are copied, up-projections cut by heads."""
        query = self.heads * (self.nope_dim + self.rope_dim)
        down = hidden * (self.kv_rank + self.rope_dim) + hidden * (self.query_rank or 0)
        up = (self.query_rank or hidden) * query + self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        index = () if self.indexer is None else (self.indexer.weights(hidden, self.query_rank or hidden),)
        output = self.heads * self.value_dim * hidden
        return (Weight("attention", down), Weight("attention", up + output, Cut.HEADS), *index)

    def cache(self, ranks: int) -> Cache:
        """The latent and its rotary key, whatever the ranks."""
        del ranks
        return Cache(self.kv_rank + self.rope_dim, 0 if self.indexer is None else self.indexer.key_bytes)


class Compressed(msgspec.Struct, frozen=True):
    """One vector a token for a window, and one of `ratio` tokens for what lies before; ratio 0 has the window only."""

    heads: int
    head_dim: int
    query_rank: int
    output_rank: int
    groups: int
    window: int
    ratio: int
    indexer: Indexer | None = None

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Queries and grouped outputs are cut by heads; the vector and its compressors are copied."""
        width = self.heads * self.head_dim
        output = width * self.output_rank + self.groups * self.output_rank * hidden
        overlap = 2 if self.indexer is not None else 1
        compressor = 2 * hidden * self.head_dim * overlap if self.ratio else 0
        index = () if self.indexer is None else self._index(self.indexer, hidden)
        copied = Weight("attention", hidden * (self.query_rank + self.head_dim) + compressor)
        return (copied, Weight("attention", self.query_rank * width + output, Cut.HEADS), *index)

    def _index(self, indexer: Indexer, hidden: int) -> tuple[Weight, ...]:
        keys = 4 * hidden * indexer.head_dim + hidden * indexer.heads
        return (Weight("attention", self.query_rank * indexer.heads * indexer.head_dim + keys),)

    def cache(self, ranks: int) -> Cache:
        """Compressed vectors grow with the sequence, the window does not."""
        del ranks
        if not self.ratio:
            return Cache(self.head_dim, window=self.window)
        index = 0 if self.indexer is None else self.indexer.key_bytes / self.ratio
        return Cache(self.head_dim / self.ratio, index, state_bytes=self.window * self.head_dim)


class GatedDelta(msgspec.Struct, frozen=True):
    """Linear attention: a state of fixed size a value head."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Queries, keys, values, gate and output; the convolution and the decays are small."""
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        elements = hidden * (2 * keys + 3 * values + 2 * self.value_heads) + self.kernel * (2 * keys + values)
        return (Weight("attention", elements, Cut.HEADS, self.key_heads),)

    def cache(self, ranks: int) -> Cache:
        """The state and the tail of the convolution."""
        state = self.value_heads * self.key_dim * self.value_dim * STATE_BYTES
        tail = 2 * (self.kernel - 1) * (2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim)
        return Cache(state_bytes=(state + tail) / min(ranks, self.key_heads))


class Mamba(msgspec.Struct, frozen=True):
    """A state-space mixer of the second kind."""

    heads: int
    head_dim: int
    state: int
    groups: int
    kernel: int

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Input, output and convolution."""
        inner, mixed = self.heads * self.head_dim, 2 * self.groups * self.state
        elements = hidden * (3 * inner + mixed + self.heads) + (self.kernel + 1) * (inner + mixed) + inner
        return (Weight("attention", elements, Cut.HEADS, self.heads),)

    def cache(self, ranks: int) -> Cache:
        """The state and the tail of the convolution."""
        inner, mixed = self.heads * self.head_dim, 2 * self.groups * self.state
        state = inner * self.state * STATE_BYTES + 2 * (self.kernel - 1) * (inner + mixed)
        return Cache(state_bytes=state / min(ranks, self.heads))


class Dense(msgspec.Struct, frozen=True):
    """An MLP of two matrices, or three with a gate."""

    width: int
    matrices: int = 3
    bias: bool = False

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Cut along its width."""
        bias = (self.matrices - 1) * self.width + hidden if self.bias else 0
        return (Weight("mlp", self.matrices * hidden * self.width + bias, Cut.TENSOR),)


class Experts(msgspec.Struct, frozen=True):
    """A mixture: `routed` experts, of which a token takes `active`, and perhaps shared ones it always takes."""

    routed: int
    active: int
    width: int
    shared_width: int = 0
    matrices: int = 3
    bias: bool = False
    latent: int | None = None
    """Routed experts work in a space of this width."""

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Routed experts are spread, shared ones cut like a dense MLP, the router is copied."""
        inner = self.latent or hidden
        bias = (self.matrices - 1) * self.width + inner if self.bias else 0
        around = 2 * hidden * self.latent if self.latent else 0
        router = hidden * self.routed + (self.routed if self.bias else 0)
        return (
            Weight("experts", self.routed * (self.matrices * inner * self.width + bias), Cut.EXPERTS),
            Weight("shared", self.matrices * hidden * self.shared_width + around, Cut.SHARED),
            Weight("router", router),
        )


Mixer = Grouped | Latent | Compressed | GatedDelta | Mamba
Mlp = Dense | Experts
