"""The metrics of the KV tiers: copies per (source, target, operation), and what each tier holds, skips and loses."""

from __future__ import annotations

from dynamoc.runtime.kv.tiers.tally import Copied, Path, TierReport
from dynamoc.runtime.metrics import Metrics


class TierTelemetry:
    """Takes over the engine's tier reports."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def step(self, report: TierReport) -> None:
        """Count what happened since the last report."""
        counter, gauge = self._metrics.counter, self._metrics.gauge
        for path, copied in report.copied.items():
            self._copied(path, copied)
        for path, jobs in report.in_flight.items():
            gauge("dynamoc_kv_transfer_inflight").labels(*_labels(path)).set(jobs)
        for level in report.levels:
            gauge("dynamoc_kv_tier_blocks").labels(level.tier).set(level.resident)
            gauge("dynamoc_kv_tier_capacity_blocks").labels(level.tier).set(level.capacity)
            gauge("dynamoc_kv_tier_up").labels(level.tier).set(level.is_up)
        for (tier, reason), blocks in report.skipped.items():
            counter("dynamoc_kv_tier_skipped_blocks_total").labels(tier, reason).inc(blocks)
        for tier, blocks in report.hits.items():
            counter("dynamoc_kv_tier_hit_blocks_total").labels(tier).inc(blocks)
        for tier, blocks in report.corrupt.items():
            counter("dynamoc_kv_tier_corrupt_blocks_total").labels(tier).inc(blocks)
        counter("dynamoc_kv_tier_recomputed_blocks_total").inc(report.recomputed)
        counter("dynamoc_kv_overlapped_prompts_total").inc(report.overlapped)
        counter("dynamoc_kv_layer_wait_seconds_total").inc(report.layer_wait_s)
        counter("dynamoc_kv_void_steps_total").inc(report.void_steps)
        for labels, copies in report.ways.items():
            counter("dynamoc_kv_way_copies_total").labels(*labels).inc(copies)

    def _copied(self, path: Path, copied: Copied) -> None:
        counter, labels = self._metrics.counter, _labels(path)
        counter("dynamoc_kv_transfer_bytes_total").labels(*labels).inc(copied.moved_bytes)
        counter("dynamoc_kv_transfer_blocks_total").labels(*labels).inc(copied.blocks)
        for seconds in copied.seconds:
            self._metrics.histogram("dynamoc_kv_transfer_seconds").labels(*labels).observe(seconds)
        for reason, blocks in copied.failures.items():
            counter("dynamoc_kv_transfer_failures_total").labels(*labels, reason).inc(blocks)


def _labels(path: Path) -> tuple[str, str, str, str]:
    return path.via, path.source, path.target, path.operation
