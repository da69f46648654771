"""What the router believes each worker has to do, kept from its own decisions and the workers' reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Load:
    """Work of one worker: prompt tokens not yet computed, blocks in use, requests not ended.

    `unseen` is what the worker reported beyond that: blocks that output filled, and requests that a router before
    this one placed.
    """

    prefill_tokens: int = 0
    blocks: int = 0
    requests: int = 0
    unseen_blocks: int = 0
    unseen_requests: int = 0

    @property
    def active_blocks(self) -> int:
        """Blocks in use, as far as anyone knows."""
        return self.blocks + self.unseen_blocks

    @property
    def active_requests(self) -> int:
        """Requests not ended, as far as anyone knows."""
        return self.requests + self.unseen_requests

    def reported(self, requests: int, blocks: int) -> None:
        """The worker's own count. It may be older than the latest decision, so it never lowers a prediction."""
        self.unseen_requests = max(0, requests - self.requests)
        self.unseen_blocks = max(0, blocks - self.blocks)


@dataclass(slots=True)
class Share:
    """What one request adds to one worker, until it is taken back. Taking back twice changes nothing."""

    load: Load
    prefill_tokens: int
    blocks: int
    requests: int = 1

    def add(self) -> None:
        """The request was sent to the worker."""
        self.load.prefill_tokens += self.prefill_tokens
        self.load.blocks += self.blocks
        self.load.requests += self.requests

    def end_prefill(self) -> None:
        """The prompt is computed."""
        self.load.prefill_tokens -= self.prefill_tokens
        self.prefill_tokens = 0

    def end(self) -> None:
        """The worker is done with the request."""
        self.end_prefill()
        self.load.blocks -= self.blocks
        self.load.requests -= self.requests
        self.blocks = self.requests = 0


@dataclass(frozen=True, slots=True)
class Charge:
    """A placed request: its share of the worker that decodes, and of the one that computes the prompt elsewhere."""

    serving: Share
    prefill: Share | None = None

    def add(self) -> None:
        """The request was placed."""
        self.serving.add()
        if self.prefill is not None:
            self.prefill.add()

    def prompt_computed(self) -> None:
        """The first token arrived."""
        self.serving.end_prefill()
        if self.prefill is not None:
            self.prefill.end()

    def ended(self) -> None:
        """The request is over."""
        self.serving.end()
        if self.prefill is not None:
            self.prefill.end()
