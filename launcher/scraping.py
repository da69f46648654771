"""Reads the metrics of every process of a run and says what they amount to."""

from __future__ import annotations

import http.client
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from dynamoc.runtime.manifest import Manifest, Role

TIMEOUT_S = 5.0
TIER_COPIES = ("offload", "onboard")
"""Operations between the tiers of one worker."""

WORK = ("dynamoc_worker_steps_total", "dynamoc_worker_prompt_tokens_total", "dynamoc_worker_generated_tokens_total")
"""What grows as soon as a worker does anything for a request; engines that are programs of their own count no steps."""

Samples = dict[str, list[tuple[dict[str, str], float]]]
"""Values by sample name, each with its labels."""


class ScrapeError(Exception):
    """A process does not show its metrics."""


def scrape(host: str, port: int) -> Samples:
    """One process's metrics."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise ScrapeError(f"no metrics from {host}:{port}: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ScrapeError(f"no metrics from {host}:{port}: status {response.status}")
    samples: Samples = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name].append((sample.labels, sample.value))
    return samples


def scrape_run(manifest: Manifest, hosts: Sequence[str]) -> dict[str, Samples]:
    """Metrics of all processes by name, from their `metrics` port, or `http` where they have none."""
    found = {}
    for process in manifest.processes:
        port = process.ports.get("metrics", process.ports.get("http"))
        if port is not None:
            found[process.name] = scrape(hosts[process.node], port)
    return found


@dataclass(frozen=True, slots=True)
class Moved:
    """KV that one transport moved between workers."""

    blocks: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened to the KV cache in the whole run so far."""

    moved: dict[str, Moved] = field(default_factory=dict)
    received_blocks: int = 0
    checksum_failures: int = 0
    transfer_failures: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    work: dict[str, float] = field(default_factory=dict)
    """By worker, what only grows while it works; 0 for one that never did."""


def summarise(manifest: Manifest, samples: dict[str, Samples]) -> Summary:
    """Add up the workers' counters; token counts are the frontends', so that each prompt counts once."""
    workers = [samples[p.name] for p in manifest.processes if p.role.is_worker and p.name in samples]
    frontends = [samples[p.name] for p in manifest.of_role(Role.FRONTEND) if p.name in samples]
    blocks = _by_transport(workers, "dynamoc_kv_transfer_blocks_total")
    amount = _by_transport(workers, "dynamoc_kv_transfer_bytes_total")
    seconds = _by_transport(workers, "dynamoc_kv_transfer_seconds_sum")
    return Summary(
        moved={t: Moved(int(blocks[t]), int(amount.get(t, 0)), seconds.get(t, 0.0)) for t in sorted(blocks)},
        received_blocks=int(_total(workers, "dynamoc_kv_received_blocks_total")),
        checksum_failures=int(_total(workers, "dynamoc_kv_checksum_failures_total")),
        transfer_failures=int(_total(workers, "dynamoc_kv_transfer_failures_total")),
        prompt_tokens=int(_total(frontends, "dynamoc_frontend_prompt_tokens_total")),
        cached_tokens=int(_total(frontends, "dynamoc_frontend_cached_tokens_total")),
        work={
            p.name: sum(_total([samples[p.name]], name) for name in WORK)
            for p in manifest.processes
            if p.role.is_worker and p.name in samples
        },
    )


def declared_transports(manifest: Manifest) -> tuple[str, ...]:
    """What moves KV between workers, by the plan."""
    return tuple(sorted({edge.transport for edge in manifest.edges if edge.kind == "kv" and edge.transport}))


def counted_transports(manifest: Manifest) -> tuple[str, ...]:
    """Those whose blocks our workers count: what a served engine's connector moves is in that engine's counters."""
    served = {process.component for process in manifest.processes if process.launch is not None}
    edges = (edge for edge in manifest.edges if edge.kind == "kv" and edge.target not in served)
    return tuple(sorted({edge.transport for edge in edges if edge.transport}))


def idle_workers(manifest: Manifest, before: Summary, after: Summary) -> tuple[str, ...]:
    """Workers that did nothing in between. Of a served engine only where another of its pool shows that it counts."""
    counting = {p.component for p in manifest.processes if p.launch is None or after.work.get(p.name)}
    known = (p.name for p in manifest.processes if p.component in counting and p.name in after.work)
    return tuple(name for name in known if after.work[name] == before.work.get(name, 0.0))


def problems(manifest: Manifest, summary: Summary) -> list[str]:
    """How the KV path differs from what the plan declares; empty if it does not."""
    declared = set(declared_transports(manifest))
    used = {transport for transport, moved in summary.moved.items() if moved.blocks}
    idle = set(counted_transports(manifest)) - used
    found = [f"the plan declares transport `{t}`, but it moved no block" for t in sorted(idle)]
    found += [
        f"`{t}` moved {summary.moved[t].blocks} blocks, but no edge of the plan declares it"
        for t in sorted(used - declared)
    ]
    if summary.checksum_failures:
        found.append(f"{summary.checksum_failures} blocks arrived with a wrong checksum")
    if summary.transfer_failures:
        found.append(f"{summary.transfer_failures} transfers failed")
    return found


def _by_transport(processes: Iterable[Samples], name: str) -> dict[str, float]:
    """What moved between workers; copies between the tiers of one worker are counted too, but on no edge."""
    totals: dict[str, float] = defaultdict(float)
    for samples in processes:
        for labels, value in samples.get(name, ()):
            if labels.get("op") not in TIER_COPIES:
                totals[labels.get("transport", "?")] += value
    return totals


def _total(processes: Iterable[Samples], name: str) -> float:
    return sum(value for samples in processes for _, value in samples.get(name, ()))
