"""The worker's metrics: engine statistics as counters and gauges, KV transfers by the transport that moved them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dynamoc.runtime.engines.protocol import EngineStats
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.transports.protocol import Completion, Outcome
from dynamoc.runtime.worker.tier_telemetry import TierTelemetry

TIER = "G1"
OPERATION = "push"


class Telemetry:
    """What this worker counts. `transport` is the one in use: no other ever moves a block."""

    def __init__(self, metrics: Metrics, transport: str | None) -> None:
        self.tiers = TierTelemetry(metrics)
        self._metrics = metrics
        self._labels = (transport or "none", TIER, TIER, OPERATION)
        self._last = EngineStats()

    def step(self, stats: EngineStats) -> None:
        """Take over the engine's statistics."""
        gauge, last = self._metrics.gauge, self._last
        gauge("dynamoc_worker_running_requests").set(stats.running)
        gauge("dynamoc_worker_waiting_requests").set(stats.waiting)
        free = stats.total_blocks - stats.active_blocks - stats.cached_blocks - stats.quarantined_blocks
        states = (stats.active_blocks, stats.cached_blocks, free, stats.quarantined_blocks)
        for state, count in zip(("active", "cached", "free", "quarantined"), states, strict=True):
            gauge("dynamoc_worker_blocks").labels(state).set(count)
        for name in ("prompt_tokens", "cached_tokens", "generated_tokens", "preemptions", "steps", "step_seconds"):
            self._metrics.counter(f"dynamoc_worker_{name}_total").inc(getattr(stats, name) - getattr(last, name))
        self._last = stats

    @contextlib.contextmanager
    def transfer_under_way(self) -> Iterator[None]:
        """Count a transfer as in flight meanwhile."""
        with self._metrics.gauge("dynamoc_kv_transfer_inflight").labels(*self._labels).track_inprogress():
            yield

    def transferred(self, completion: Completion, blocks: int) -> None:
        """A transfer ended."""
        counter = self._metrics.counter
        counter("dynamoc_kv_transfer_bytes_total").labels(*self._labels).inc(completion.moved_bytes)
        if completion.outcome is not Outcome.SUCCESS:
            counter("dynamoc_kv_transfer_failures_total").labels(*self._labels, completion.outcome).inc()
            return
        counter("dynamoc_kv_transfer_blocks_total").labels(*self._labels).inc(blocks)
        self._metrics.histogram("dynamoc_kv_transfer_seconds").labels(*self._labels).observe(completion.seconds)

    def exposed(self, seconds: float) -> None:
        """A prompt was computed, and so much later its KV was written."""
        self._metrics.histogram("dynamoc_kv_transfer_exposed_seconds").labels(self._labels[0]).observe(seconds)

    def verified_after(self, layer_s: float, token_s: float) -> None:
        """A prompt may be decoded here, so long after its last layer was computed and its first token known."""
        for name, seconds in (("verified", layer_s), ("delay", token_s)):
            self._metrics.histogram(f"dynamoc_kv_transfer_{name}_seconds").labels(self._labels[0]).observe(seconds)

    def waited_for_tiers(self, seconds: float) -> None:
        """What a prefill worker wrote of a prompt was verified, and so much later this worker's tiers were done."""
        self._metrics.histogram("dynamoc_kv_tier_exposed_seconds").observe(seconds)

    def asked_again(self) -> None:
        """The tiers did not bring what they held of a prompt: its prefill worker writes that too."""
        self._metrics.counter("dynamoc_kv_asked_again_total").inc()

    def received(self, verified: int, wrong: int) -> None:
        """Blocks arrived; their checksums were right or wrong."""
        self._metrics.counter("dynamoc_kv_received_blocks_total").labels(self._labels[0]).inc(verified)
        self._metrics.counter("dynamoc_kv_checksum_failures_total").inc(wrong)

    def local_prefill(self, reason: str) -> None:
        """A prompt is computed here although a prefill worker was chosen."""
        self._metrics.counter("dynamoc_kv_local_prefills_total").labels(reason).inc()
