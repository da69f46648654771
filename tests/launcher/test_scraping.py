"""What the processes' metrics amount to, from real metric servers."""

from __future__ import annotations

import msgspec
import pytest
from free_ports import free_port

from dynamoc.launcher.scraping import (
    Moved,
    ScrapeError,
    Summary,
    idle_workers,
    problems,
    scrape,
    scrape_run,
    summarise,
)
from dynamoc.runtime.manifest import Edge, Launch, Manifest, ModelRef, ProcessSpec, Role
from dynamoc.runtime.metrics import Metrics


def process(name, role, **ports):
    return ProcessSpec(name=name, component=name, role=role, replica=0, node=0, argv=(), ports=ports)


def manifest_of(*processes, transport="shm"):
    edges = (
        Edge(source="frontend", target="router", kind="request"),
        Edge(source="prefill", target="decode", kind="kv", transport=transport),
    )
    return Manifest(
        version=1, name="m", plan_hash="", model=ModelRef(ref="m", served_name="m"), nodes=1,
        processes=processes, edges=edges,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # metric servers live as long as their process
def test_a_run_is_added_up_over_its_processes():
    prefill, decode, frontend = (Metrics() for _ in range(3))
    labels = ("shm", "prefill-0", "decode-0", "write")
    prefill.counter("dynamoc_kv_transfer_blocks_total").labels(*labels).inc(12)
    prefill.counter("dynamoc_kv_transfer_bytes_total").labels(*labels).inc(12 * 4096)
    prefill.histogram("dynamoc_kv_transfer_seconds").labels(*labels).observe(0.25)
    prefill.counter("dynamoc_kv_transfer_blocks_total").labels("copy", "G1", "G2", "offload").inc(5)
    prefill.counter("dynamoc_kv_transfer_blocks_total").labels("file", "G3", "G1", "onboard").inc(5)
    decode.counter("dynamoc_kv_received_blocks_total").labels("shm").inc(11)
    decode.counter("dynamoc_kv_checksum_failures_total").inc(1)
    frontend.counter("dynamoc_frontend_prompt_tokens_total").inc(100)
    frontend.counter("dynamoc_frontend_cached_tokens_total").inc(32)
    manifest = manifest_of(
        process("frontend-0", Role.FRONTEND, http=free_port()),
        process("prefill-0", Role.PREFILL, metrics=free_port(), kv=1),
        process("decode-0", Role.DECODE, metrics=free_port()),
    )
    for metrics, spec in zip((frontend, prefill, decode), manifest.processes, strict=True):
        metrics.serve("127.0.0.1", spec.ports.get("metrics", spec.ports.get("http", 0)))
    summary = summarise(manifest, scrape_run(manifest, ["127.0.0.1"]))
    assert summary == Summary(
        moved={"shm": Moved(12, 12 * 4096, 0.25)},
        received_blocks=11,
        checksum_failures=1,
        prompt_tokens=100,
        cached_tokens=32,
        work={"prefill-0": 0.0, "decode-0": 0.0},
    )
    assert problems(manifest, summary) == ["1 blocks arrived with a wrong checksum"]


def test_a_path_other_than_the_declared_one_is_a_problem():
    manifest = manifest_of(transport="shm")
    assert problems(manifest, Summary(moved={"shm": Moved(1, 1, 0.1)})) == []
    assert problems(manifest, Summary()) == ["the plan declares transport `shm`, but it moved no block"]
    assert problems(manifest, Summary(moved={"tcp": Moved(3, 9, 0.1)})) == [
        "the plan declares transport `shm`, but it moved no block",
        "`tcp` moved 3 blocks, but no edge of the plan declares it",
    ]
    assert problems(manifest_of(transport=None), Summary()) == []


def test_what_an_engine_moves_itself_is_not_missed():
    launched = msgspec.structs.replace(process("decode", Role.DECODE), launch=Launch(words=("-m", "engine")))
    served = manifest_of(process("prefill", Role.PREFILL), launched, transport="nixl")
    assert problems(served, Summary()) == []
    assert problems(served, Summary(moved={"tcp": Moved(1, 1, 0.1)}))
    assert problems(manifest_of(process("decode", Role.DECODE), transport="nixl"), Summary())


def test_a_process_without_metrics_is_said():
    with pytest.raises(ScrapeError, match="no metrics from 127"):
        scrape("127.0.0.1", free_port())


def test_a_worker_is_idle_if_nothing_it_counts_has_grown():
    manifest = manifest_of(process("prefill-0", Role.PREFILL), process("decode-0", Role.DECODE))
    before = Summary(work={"prefill-0": 10.0, "decode-0": 7.0})

    assert idle_workers(manifest, before, Summary(work={"prefill-0": 12.0, "decode-0": 7.0})) == ("decode-0",)
    assert idle_workers(manifest, before, Summary(work={"prefill-0": 3.0, "decode-0": 9.0})) == ()
