"""What a simulated pipeline is asked, and what it answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its prompt, how many tokens it wants, and when it comes where arrivals have times of their own."""

    tokens: Sequence[int]
    osl: int
    at_s: float = 0.0


@dataclass(slots=True)
class Answered:
    """A request from its sending on: when each of its tokens came. `error` says why it has not all of them."""

    index: int
    asked: Asked
    sent_s: float
    token_s: list[float] = field(default_factory=list)
    ended_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """What moves KV from prefill to decode: bytes of a block, and the rate and the latency of every transfer."""

    block_bytes: int = 0
    bytes_per_s: float = 1e9
    latency_s: float = 0.0

    def seconds(self, blocks: int) -> float:
        """How long a transfer of some blocks takes."""
        return self.latency_s + blocks * self.block_bytes / self.bytes_per_s
