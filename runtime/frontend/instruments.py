"""The frontend's metrics, looked up once."""

from __future__ import annotations

from dynamoc.runtime.metrics import Metrics


class Instruments:
    """Bound to the table of `runtime/metrics.py`."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests = metrics.counter("dynamoc_frontend_requests_total")
        self.prompt_tokens = metrics.counter("dynamoc_frontend_prompt_tokens_total")
        self.cached_tokens = metrics.counter("dynamoc_frontend_cached_tokens_total")
        self.output_tokens = metrics.counter("dynamoc_frontend_output_tokens_total")
        self.first_token_seconds = metrics.histogram("dynamoc_frontend_time_to_first_token_seconds")
        self.gap_seconds = metrics.histogram("dynamoc_frontend_inter_token_latency_seconds")
        self.request_seconds = metrics.histogram("dynamoc_frontend_request_seconds")
        self.disconnects = metrics.counter("dynamoc_frontend_disconnects_total")
        self.replays = metrics.counter("dynamoc_frontend_replays_total")
