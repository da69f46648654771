"""Pools of the native engine on GPUs: held against what the weights leave, to the block."""

from __future__ import annotations

import pytest
from proving import cards

from dynamoc.compiler import staging
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.pipeline import build_plan, prove
from dynamoc.compiler.source import read_source
from dynamoc.compiler.summary import summarize
from dynamoc.runtime.transports import nixl_device

MIB, GIB = 1 << 20, 1 << 30
SPEC = """\
dynamoc: 1
name: demo
model: {{ref: meta-llama/Llama-3.1-8B-Instruct}}
defaults: {{engine: {engine}, device: {device}, dtype: {dtype}, context_length: 8192}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  worker: {{role: aggregated, {pool}}}
edges: [frontend -> router -> worker]
"""
SITE = "name: a\nnodes: [{name: n, cpus: 64, memory: 1 TiB, gpus: {count: 8, kind: some, memory: 40 GiB}}]\n"
WEIGHTS = 2 * 8_030_261_248
"""Published parameters, in two bytes each."""
BLOCK = 16 * 2 * 32 * 8 * 128 * 2


def spec(pool: str, engine: str = "native", device: str = "cuda", dtype: str = "bfloat16") -> str:
    return SPEC.format(pool=pool, engine=engine, device=device, dtype=dtype)


def found(text: str) -> list[tuple[str, str]]:
    proof = prove(read_source(text, "spec.yaml"), read_cluster(read_source(SITE, "c")), cards())
    return [(d.code, str(d.severity)) for d in proof.diagnostics if d.code in ("D330", "D331", "D332")]


MOST = (40 * GIB - WEIGHTS - GIB) // BLOCK
"""Blocks beside the weights and the least that a runtime takes."""


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (f"kv_blocks: {MOST + 1}", [("D332", "error")]),
        (f"kv_blocks: {MOST}", [("D332", "warning")]),
        (f"kv_blocks: {MOST - 2048}", []),
        ("kv_memory: 25 GiB", [("D332", "error")]),
        ("kv_memory: 20 GiB", []),
    ],
)
def test_a_pool_is_held_against_what_the_weights_leave(pool: str, expected: list[tuple[str, str]]) -> None:
    assert found(spec(pool)) == expected


SPLIT = """\
dynamoc: 1
name: demo
model: {{ref: meta-llama/Llama-3.1-8B-Instruct}}
defaults: {{engine: native, device: cuda, dtype: bfloat16, context_length: 8192, kv_blocks: {blocks}}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  prefill: {{role: prefill, replicas: 3}}
  decode: {{role: decode, kv_blocks: 2048}}
edges: [frontend -> router -> prefill, {{from: prefill, to: decode, transport: {transport}}}]
"""


def test_slots_of_nixl_are_beside_the_pool_too() -> None:
    slots = nixl_device.SLOTS
    assert (slots.count, slots.size) == (staging.SLOTS, staging.SLOT_BYTES)
    room = slots.count * slots.size // BLOCK

    def said(blocks: int, transport: str) -> list[tuple[str, str]]:
        return found(SPLIT.format(blocks=blocks, transport=transport))

    assert said(MOST, "nvlink") == said(MOST - room, "nixl") == [("D332", "warning")]
    assert said(MOST - room + 1, "nixl") == [("D332", "error")]
    text = SPLIT.format(blocks=2048, transport="nixl").replace("decode, kv_blocks: 2048", f"decode, kv_blocks: {MOST}")
    proof = prove(read_source(text, "spec.yaml"), read_cluster(read_source(SITE, "c")), cards())
    (one,) = [said for said in proof.diagnostics if said.code == "D332"]
    assert one.notes[1] == "384 MiB of slots for `nixl`: 3 peers x 128 MiB"


def test_wider_weights_leave_less() -> None:
    assert found(spec("kv_memory: 12 GiB")) == []
    assert found(spec("kv_memory: 12 GiB", dtype="float32")) == [("D332", "error")]


def test_only_pools_on_gpus_are_meant() -> None:
    assert found(spec("kv_memory: 25 GiB", device="cpu")) == []
    assert found(spec("kv_blocks: 100000", engine="mocker")) == []


def test_a_plan_shows_the_pool_that_was_told() -> None:
    text = spec("kv_memory: 20 GiB")
    plan, _ = build_plan(read_source(text, "spec.yaml"), read_cluster(read_source(SITE, "c")), cards())
    (memory,) = summarize(plan).gpu_memory

    assert (memory.kv, memory.kv_bytes_per_token) == (20 * GIB, BLOCK // 16)
    assert memory.weights == WEIGHTS
    assert memory.kv_tokens == 20 * GIB // BLOCK * 16
