"""What the tiers did is what the metrics say."""

from __future__ import annotations

from collections import Counter

from dynamoc.runtime.kv.tiers.ledger import Skip
from dynamoc.runtime.kv.tiers.tally import Level, Path, Tally
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.worker.tier_telemetry import TierTelemetry

UP = Path("copy", "G2", "G1", "onboard")
LABELS = {"transport": "copy", "src": "G2", "dst": "G1", "op": "onboard"}


def test_every_count_reaches_its_metric() -> None:
    metrics, tally = Metrics(), Tally()
    telemetry = TierTelemetry(metrics)
    for _ in range(2):
        with tally.copying(UP) as arrived:
            arrived.extend([4096, 4096])
        tally.failed(UP, "corrupt")
        tally.corrupt("G2")
        tally.skipped("G3", Skip.BUSY, 3)
        tally.looked_up(Counter(G2=5), 2)
        tally.overlapped(1, 0.25, void_steps=0)
        tally.overlapped(0, 0.5, void_steps=1)
        report = tally.take((Level("G2", 7, 9, is_up=True),))
        report.ways = Counter({("batch", "onboard"): 2})
        assert report.has_news
        telemetry.step(report)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("dynamoc_kv_transfer_bytes_total", **LABELS) == 4 * 4096
    assert value("dynamoc_kv_transfer_blocks_total", **LABELS) == 4
    assert value("dynamoc_kv_transfer_failures_total", **LABELS, reason="corrupt") == 2
    assert value("dynamoc_kv_transfer_inflight", **LABELS) == 0
    assert value("dynamoc_kv_tier_blocks", tier="G2") == 7
    assert value("dynamoc_kv_tier_capacity_blocks", tier="G2") == 9
    assert value("dynamoc_kv_tier_up", tier="G2") == 1
    assert value("dynamoc_kv_tier_corrupt_blocks_total", tier="G2") == 2
    assert value("dynamoc_kv_tier_skipped_blocks_total", tier="G3", reason="busy") == 6
    assert value("dynamoc_kv_tier_hit_blocks_total", tier="G2") == 10
    assert value("dynamoc_kv_tier_recomputed_blocks_total") == 4
    assert value("dynamoc_kv_overlapped_prompts_total") == 2
    assert value("dynamoc_kv_layer_wait_seconds_total") == 1.5
    assert value("dynamoc_kv_void_steps_total") == 2
    assert value("dynamoc_kv_way_copies_total", way="batch", op="onboard") == 4


def test_nothing_that_happened_is_no_news() -> None:
    assert not Tally().take(()).has_news
