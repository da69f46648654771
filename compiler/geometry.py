"""The shape of a model: layer by layer what there is, how many elements, and of which number format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import msgspec

from dynamoc.compiler.layers import Cut, Dense, Experts, Grouped, Mixer, Mlp, Weight

BITS: Mapping[str, float] = {
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "fp8": 8,
    "fp8_block": 8 + 32 / (128 * 128),
    "mxfp8": 8 + 8 / 32,
    "int8": 8,
    "nvfp4": 4 + 8 / 16,
    "mxfp4": 4 + 8 / 32,
    "int4": 4 + 16 / 32,
    "int4_g128": 4 + 16 / 128,
    "awq": 4 + (16 + 4) / 128,
}
"""Bits of one weight, its share of the scales included."""

WIDTHS: Mapping[str, int] = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "mxfp8": 8,
    "int8": 8,
    "fp4": 4,
    "nvfp4": 4,
    "mxfp4": 4,
    "int4": 4,
}
"""Bits of a weight by the name of a precision."""

PARTS = ("embedding", "head", "attention", "mlp", "shared", "experts", "router", "norm")
"""Kinds of weights that may differ in number format."""
PLAIN_PARTS = ("embedding", "head", "router", "norm")
"""Parts that quantisers leave alone unless they say so."""


class Layer(msgspec.Struct, frozen=True):
    """One layer: what mixes tokens, and the MLP; some hybrids have only one of the two."""

    mixer: Mixer | None
    mlp: Mlp | None

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Matrices, and a norm before each half."""
        for half in (self.mixer, self.mlp):
            if half is not None:
                yield from half.weights(hidden)
                yield Weight("norm", hidden)


class Geometry(msgspec.Struct, frozen=True, dict=True):
    """What the compiler knows of a model. From a card or a config.json. Sums over all layers are made once."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_length: int
    intermediate: int | None = None
    """Width of the MLP (of one expert, in a mixture); None when unknown."""
    stack: tuple[Layer, ...] = ()
    """Every layer; empty where all are alike and follow from the numbers above."""
    tied: bool = False
    """The embedding is also the head."""
    extra: int = 0
    """Elements beside the language model, such as a vision tower."""
    mtp_layers: int = 0
    """Layers that predict further tokens; each is like the last one, with a projection of its own."""
    formats: Mapping[str, str] = {}
    """Number format by part; a part that is not named has the type the engine computes in."""
    exact: bool = True
    """Whether every weight is known; False for a family whose config.json we do not know to read."""

    @property
    def blocks(self) -> tuple[Layer, ...]:
        """Every layer."""
        if self.stack:
            return self.stack
        mixer = Grouped(self.heads, self.kv_heads, self.head_dim, self.head_dim)
        return (Layer(mixer, None if self.intermediate is None else Dense(self.intermediate)),) * self.layers

    @property
    def experts(self) -> Experts | None:
        """The mixture of its layers, None for a dense model."""
        return next((layer.mlp for layer in self.blocks if isinstance(layer.mlp, Experts)), None)

    @property
    def embedding(self) -> Weight:
        """Input embedding."""
        return Weight("embedding", self.vocabulary * self.hidden, Cut.VOCABULARY)

    @property
    def head(self) -> Weight:
        """Output head; nothing where it is the embedding."""
        return Weight("head", 0 if self.tied else self.vocabulary * self.hidden, Cut.VOCABULARY)

    @cached_property
    def kv_elements(self) -> float:
        """Elements of KV that one token leaves in all layers on a single rank."""
        return sum(layer.mixer.cache(1).elements for layer in self.blocks if layer.mixer is not None)

    @cached_property
    def parameters(self) -> int:
        """Elements of the model, without the layers that predict further tokens."""
        ends = self.embedding.elements + self.head.elements + self.hidden + self.extra
        return ends + sum(weight.elements for layer in self.blocks for weight in layer.weights(self.hidden))

    @property
    def width(self) -> int:
        """Bits of a weight as people name the precision of a model: those of most of its weights, without scales."""
        part = "mlp" if self.experts is None else "experts"
        return int(self.bits(part, "bfloat16")) // 4 * 4

    def bits(self, part: str, dtype: str) -> float:
        """Bits of one weight of a part in an engine that computes in `dtype`."""
        return BITS[self.formats.get(part, dtype)]

    @cached_property
    def bytes_on_disk(self) -> float:
        """Size of the checkpoint, bfloat16 where no format is named."""
        weights = [self.embedding, self.head, Weight("norm", self.hidden + self.extra)]
        weights += [weight for layer in self.blocks for weight in layer.weights(self.hidden)]
        return sum(weight.elements * self.bits(weight.part, "bfloat16") for weight in weights) / 8
