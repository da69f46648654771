"""What lies where in the memory of an owner, and the digest by which two processes know that they mean the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import msgspec

ALIGNMENT = 256
"""Of every tensor, as a device's own allocator aligns them."""


class LayoutError(ValueError):
    """A layout that cannot be; the message says which tensor and why."""


class TensorPlace(msgspec.Struct, frozen=True, array_like=True):
    """A contiguous tensor: `shape` elements of `dtype`, from byte `offset` of an allocation on."""

    name: str
    allocation: int
    offset: int
    shape: tuple[int, ...]
    dtype: str
    item_bytes: int

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.item_bytes

    def fault(self, sizes: tuple[int, ...]) -> str:
        """Why it cannot lie in allocations of these sizes; empty if it can."""
        if not 0 <= self.allocation < len(sizes):
            return f"allocation {self.allocation} of {len(sizes)}"
        if self.item_bytes < 1 or min(self.shape, default=0) < 0:
            return f"shape {self.shape} of {self.item_bytes} B"
        if self.offset < 0 or self.offset % self.item_bytes:
            return f"offset {self.offset} of elements of {self.item_bytes} B"
        if self.offset + self.size > sizes[self.allocation]:
            return f"{self.offset} + {self.size} B in an allocation of {sizes[self.allocation]} B"
        return ""


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """The committed state: `identity` says what the contents are, `sizes` the allocations."""

    identity: str
    sizes: tuple[int, ...]
    tensors: tuple[TensorPlace, ...]

    def check(self) -> None:
        """LayoutError if a tensor is named twice or lies outside its allocation."""
        if len(self.by_name()) != len(self.tensors):
            raise LayoutError("a tensor is named twice")
        for tensor in self.tensors:
            if fault := tensor.fault(self.sizes):
                raise LayoutError(f"tensor {tensor.name} cannot be there: {fault}")

    def by_name(self) -> Mapping[str, TensorPlace]:
        """The tensors."""
        return {tensor.name: tensor for tensor in self.tensors}

    def digest(self) -> str:
        """SHA-256 of everything but the bytes themselves; the order in which tensors were placed does not matter."""
        facts = (self.identity, self.sizes, sorted(self.tensors, key=lambda tensor: tensor.name))
        return hashlib.sha256(msgspec.msgpack.encode(facts)).hexdigest()
