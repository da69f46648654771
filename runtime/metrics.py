"""Every metric dynamoc exports: one table, from which docs/metrics.md is generated.

Names follow Prometheus: the unit is a suffix, counters end in `_total`, no value is ambiguous about direction
(`src`, `dst`, `op` labels), and a rate is never exported where its two counters can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `of` names the role that exports it."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    of: Literal["frontend", "router", "worker", "every"]
    doc: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS


METRICS: tuple[Metric, ...] = (
    Metric("dynamoc_info", "gauge", "every", "1; the labels say which process this is.", ("process", "role", "incarnation")),
    # frontend
    Metric("dynamoc_frontend_requests_total", "counter", "frontend", "Requests by endpoint and HTTP status.", ("endpoint", "status")),
    Metric("dynamoc_frontend_inflight_requests", "gauge", "frontend", "Requests being answered."),
    Metric("dynamoc_frontend_prompt_tokens_total", "counter", "frontend", "Prompt tokens of accepted requests."),
    Metric("dynamoc_frontend_cached_tokens_total", "counter", "frontend", "Prompt tokens served from a prefix cache."),
    Metric("dynamoc_frontend_output_tokens_total", "counter", "frontend", "Tokens sent to clients."),
    Metric("dynamoc_frontend_time_to_first_token_seconds", "histogram", "frontend", "Request received to first token."),
    Metric("dynamoc_frontend_inter_token_latency_seconds", "histogram", "frontend", "Gap between two successive tokens of a request."),
    Metric("dynamoc_frontend_request_seconds", "histogram", "frontend", "Request received to last byte sent."),
    Metric("dynamoc_frontend_disconnects_total", "counter", "frontend", "Clients that left before their answer was complete."),
    Metric("dynamoc_frontend_replays_total", "counter", "frontend", "Requests sent to another worker.", ("after",)),
    # router
    Metric("dynamoc_router_requests_total", "counter", "router", "Routing decisions.", ("outcome",)),
    Metric("dynamoc_router_queued_requests", "gauge", "router", "Requests waiting for a worker."),
    Metric("dynamoc_router_workers", "gauge", "router", "Registered workers.", ("role",)),
    Metric("dynamoc_router_overlap_blocks_total", "counter", "router", "Prompt blocks believed resident where a request was sent."),
    Metric("dynamoc_router_prompt_blocks_total", "counter", "router", "Prompt blocks of routed requests."),
    Metric("dynamoc_router_decision_seconds", "histogram", "router", "Time to choose a worker.", (), (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 0.1)),
    Metric("dynamoc_router_index_blocks", "gauge", "router", "Blocks in the prefix index.", ("worker",)),
    Metric("dynamoc_router_kv_events_total", "counter", "router", "KV events applied.", ("type", "status")),
    # worker
    Metric("dynamoc_worker_running_requests", "gauge", "worker", "Requests in the running batch."),
    Metric("dynamoc_worker_waiting_requests", "gauge", "worker", "Requests waiting for blocks or budget."),
    Metric("dynamoc_worker_blocks", "gauge", "worker", "KV blocks by state: active, cached, free, quarantined.", ("state",)),
    Metric("dynamoc_worker_prompt_tokens_total", "counter", "worker", "Prompt tokens of requests, computed or not."),
    Metric("dynamoc_worker_cached_tokens_total", "counter", "worker", "Prompt tokens found in the prefix cache."),
    Metric("dynamoc_worker_generated_tokens_total", "counter", "worker", "Tokens sampled."),
    Metric("dynamoc_worker_preemptions_total", "counter", "worker", "Sequences whose blocks were taken to let others go on."),
    Metric("dynamoc_worker_steps_total", "counter", "worker", "Engine steps."),
    Metric("dynamoc_worker_step_seconds_total", "counter", "worker", "Time spent in engine steps."),
    # KV transfer, exported by the side named in the doc
    Metric("dynamoc_kv_transfer_bytes_total", "counter", "worker", "Bytes moved, counted by the sender.", ("transport", "src", "dst", "op")),
    Metric("dynamoc_kv_transfer_blocks_total", "counter", "worker", "Blocks moved, counted by the sender.", ("transport", "src", "dst", "op")),
    Metric("dynamoc_kv_transfer_seconds", "histogram", "worker", "Time of one transfer, at the sender.", ("transport", "src", "dst", "op")),
    Metric("dynamoc_kv_transfer_exposed_seconds", "histogram", "worker", "Time from a prompt's last computed token until its KV is written: what computing does not hide.", ("transport",)),
    Metric("dynamoc_kv_transfer_verified_seconds", "histogram", "worker", "Time from a prompt's last computed layer at its prefill worker until its first token is known and all that was asked for is verified here; one message's way is left out.", ("transport",)),
    Metric("dynamoc_kv_transfer_delay_seconds", "histogram", "worker", "The same from when the first token is known at the prefill worker: how long decoding waited for KV alone.", ("transport",)),
    Metric("dynamoc_kv_transfer_failures_total", "counter", "worker", "Transfers that did not succeed.", ("transport", "src", "dst", "op", "reason")),
    Metric("dynamoc_kv_transfer_inflight", "gauge", "worker", "Transfers under way.", ("transport", "src", "dst", "op")),
    Metric("dynamoc_kv_checksum_failures_total", "counter", "worker", "Blocks under a checksum that was wrong on arrival, counted by the receiver."),
    Metric("dynamoc_kv_local_prefills_total", "counter", "worker", "Prompts a decode worker computed itself though a prefill worker was chosen: resident, not_attached, silent, lost, failed, checksum.", ("reason",)),
    Metric("dynamoc_kv_received_blocks_total", "counter", "worker", "Blocks that arrived and were verified, counted by the receiver.", ("transport",)),
    Metric("dynamoc_kv_tier_exposed_seconds", "histogram", "worker", "Time a decode worker waited for blocks of a prompt from its own tiers after all that its prefill worker wrote was verified: what computing and transfer do not hide."),
    Metric("dynamoc_kv_asked_again_total", "counter", "worker", "Prompts of which a decode worker's tiers did not bring what they held, so that the prefill worker was asked for that too."),
    # Kept pools: what outlives a worker
    Metric("dynamoc_kv_pool_kept", "gauge", "worker", "1 while a service keeps the KV pool beyond this process; 0 once that is gone."),
    Metric("dynamoc_kv_recovered_blocks_total", "counter", "worker", "Blocks that an earlier life of the worker recorded in its kept pool, by what became of them: verified, wrong, orphaned, torn.", ("outcome",)),
    Metric("dynamoc_kv_abandoned_pools_total", "counter", "worker", "Kept pools that were not taken over: other (of another model, layout or size), journal (it cannot be relied on).", ("reason",)),
    # KV tiers: copies between them are transfers too, with `transport` copy, file, object or bounce+…
    Metric("dynamoc_kv_tier_blocks", "gauge", "worker", "Blocks that a tier below the device holds.", ("tier",)),
    Metric("dynamoc_kv_tier_capacity_blocks", "gauge", "worker", "Blocks that a tier can hold.", ("tier",)),
    Metric("dynamoc_kv_tier_up", "gauge", "worker", "1, or 0 while a tier is off after failures.", ("tier",)),
    Metric("dynamoc_kv_tier_hit_blocks_total", "counter", "worker", "Prompt blocks that were loaded from a tier.", ("tier",)),
    Metric("dynamoc_kv_tier_recomputed_blocks_total", "counter", "worker", "Prompt blocks that a tier held but that were sooner computed, here or by a prefill worker, than loaded."),
    Metric("dynamoc_kv_tier_skipped_blocks_total", "counter", "worker", "Blocks that were not stored in a tier: busy, endurance, evicted, full, infrequent, off, parent_absent.", ("tier", "reason")),
    Metric("dynamoc_kv_tier_corrupt_blocks_total", "counter", "worker", "Blocks that were wrong when they were read from a tier; they are computed again.", ("tier",)),
    Metric("dynamoc_kv_way_copies_total", "counter", "worker", "Copies of pages between a GPU and host memory, by the way that was chosen: batch, kernel or memcpy.", ("way", "op")),
    Metric("dynamoc_kv_overlapped_prompts_total", "counter", "worker", "Prompts of which a step computed the first layers while later ones were still being loaded."),
    Metric("dynamoc_kv_layer_wait_seconds_total", "counter", "worker", "Time steps waited for layers that were being loaded."),
    Metric("dynamoc_kv_void_steps_total", "counter", "worker", "Steps that were given up, and computed again, because layers they waited for did not arrive."),
)  # fmt: skip

_BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


class Metrics:
    """The metrics of one process; each is made at its first use, with the table's labels and buckets."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        self._stop: Callable[[], None] | None = None

    def counter(self, name: str) -> Counter:
        """The counter of that name; `.labels(...)` where it has labels."""
        made = self._get(name)
        assert isinstance(made, Counter)
        return made

    def gauge(self, name: str) -> Gauge:
        """The gauge of that name."""
        made = self._get(name)
        assert isinstance(made, Gauge)
        return made

    def histogram(self, name: str) -> Histogram:
        """The histogram of that name."""
        made = self._get(name)
        assert isinstance(made, Histogram)
        return made

    def serve(self, host: str, port: int) -> None:
        """Answer GET /metrics on `host:port` from a thread; OSError if it cannot be bound."""
        server, thread = start_http_server(port, host, registry=self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop

    def close(self) -> None:
        """Stop answering. Idempotent."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _get(self, name: str) -> Counter | Gauge | Histogram:
        if name not in self._made:
            metric = _BY_NAME[name]
            if metric.type == "counter":
                self._made[name] = Counter(name, metric.doc, metric.labels, registry=self.registry)
            elif metric.type == "gauge":
                self._made[name] = Gauge(name, metric.doc, metric.labels, registry=self.registry)
            else:
                self._made[name] = Histogram(
                    name, metric.doc, metric.labels, buckets=metric.buckets, registry=self.registry
                )
        return self._made[name]
