"""What an estimator is asked and what it answers: the seam to the program in the other environment."""

from __future__ import annotations

from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]


class PoolSizes(msgspec.Struct, frozen=True):
    """One pool: `tp` is of attention, `dp` counts its replicas within a worker, `batch` the requests of each of those.

    The experts of a worker divide over `moe_tp` x `moe_ep` = `tp` x `dp` ranks; None where there are none.
    """

    system: str
    tp: int
    pp: int
    dp: int
    moe_tp: int | None
    moe_ep: int | None
    workers: int
    batch: int


class Question(msgspec.Struct, frozen=True):
    """One load of a plan. Without `prefill`, `pool` computes prompts too; `prefix` tokens of a prompt are cached."""

    id: str
    model: str
    engine: str
    version: str | None
    isl: int
    osl: int
    prefix: int
    concurrency: int
    kv_format: str | None
    context_tokens: int | None
    """Tokens of prompts in a step; None: those of one prompt."""
    pool: PoolSizes
    prefill: PoolSizes | None


class Answer(msgspec.Struct, frozen=True):
    """What it says of one question, or why it says nothing. `rates`: requests a second that each pool could sustain."""

    id: str
    refused: str | None = None
    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    request_ms: Positive | None = None
    rates: dict[str, Positive] = {}
    version: str | None = None
    """Of the engine whose measurements it used."""
    formats: dict[str, str] = {}
    warning: str | None = None

    def __post_init__(self) -> None:
        """Every figure or a reason; ValueError."""
        missing = [name for name in ("ttft_ms", "tpot_ms", "request_ms", "version") if getattr(self, name) is None]
        if self.refused is None and missing:
            raise ValueError(f"answer {self.id} has neither {missing[0]} nor a reason")


class Answers(msgspec.Struct, frozen=True):
    """All answers, and the release of the estimator."""

    release: str
    answers: tuple[Answer, ...]
