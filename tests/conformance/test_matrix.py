"""Every pair of places: what is said to work compiles and runs, and what is refused is refused before anything runs."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from proving import cards

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.diagnostics import Diagnostic
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.tiers.lift import load_path
from dynamoc.runtime.kv.tiers.offload import TO_HOST, spill_path
from dynamoc.runtime.kv.transfer.matrix import MATRIX, Memory, Moves, Refused
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.registry import TRANSPORTS, make_transport

GIB = 2**30
G1 = {"cpu": Memory.SYSTEM, "cuda": Memory.DEVICE}
PEERS = {"cpu": Memory.PEER_SYSTEM, "cuda": Memory.PEER_DEVICE}
TIERS: dict[str, tuple[Memory, Any]] = {
    "host": (Memory.PINNED, "8 GiB"),
    "disk": (Memory.DISK, {"path": "/scratch/kv", "size": "20 GiB"}),
    "object": (Memory.OBJECT, {"url": "s3://kv-blocks/demo", "size": "1 TiB"}),
}


def ways(source: Memory, target: Memory) -> tuple[str, ...]:
    found = MATRIX[source, target]
    return found.ways if isinstance(found, Moves) else ()


def found(
    prefill: str, decode: str, transport: str | None = None, tiers: tuple[str, ...] = ()
) -> tuple[list[Diagnostic], bool]:
    """What the compiler says of workers of the native engine on these devices, and whether there is a plan."""
    components: dict[str, Any] = {"frontend": {"role": "frontend"}, "router": {"role": "router"}}
    components |= {"prefill": {"role": "prefill", "device": prefill}, "decode": {"role": "decode", "device": decode}}
    moves = {"from": "prefill", "to": "decode"} | ({"transport": transport} if transport else {})
    edges: list[Any] = ["frontend -> router -> prefill", moves]
    if tiers:
        components["cache"] = {"role": "cache", "tiers": {name: TIERS[name][1] for name in tiers}}
        edges += ["prefill -> cache", "decode -> cache"]
    defaults = {"engine": "native", "context_length": 2048, "kv_memory": "128 MiB"}
    model = {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    head = {"dynamoc": 1, "name": "demo", "model": model, "defaults": defaults}
    spec = {**head, "components": components, "edges": edges}
    cluster = Cluster("demo", (Node("gpu", 112, 2048 * GIB, 8, "H200", 141 * GIB),))
    proof = prove(read_source(to_yaml(spec), "spec.yaml"), cluster, cards())
    return list(proof.diagnostics), proof.plan is not None


def test_every_pair_is_answered() -> None:
    assert set(MATRIX) == set(itertools.product(Memory, repeat=2))
    assert all(found.ways if isinstance(found, Moves) else found.reason for found in MATRIX.values())


@pytest.mark.parametrize("device", G1)
@pytest.mark.parametrize("tiers", [("host",), ("disk",), ("object",), ("disk", "object"), tuple(TIERS)], ids="+".join)
def test_tiers_that_work_below_a_device_compile(device: str, tiers: tuple[str, ...]) -> None:
    for name in tiers:
        assert ways(G1[device], TIERS[name][0])
        assert ways(TIERS[name][0], G1[device])

    assert found(device, device, None, tiers) == ([], True)


def test_ways_between_tiers_are_those_that_the_metrics_name() -> None:
    tiers: dict[Memory, Any] = {memory: SimpleNamespace(name=memory) for memory in (Memory.DISK, Memory.OBJECT)}
    for g1 in G1.values():
        assert ways(g1, Memory.PINNED) == (TO_HOST.via,)
        assert ways(Memory.PINNED, g1) == (load_path(SimpleNamespace(name="G2"), via_host=True).via,)  # type: ignore[arg-type]
        for memory, tier in tiers.items():
            lent = (False,) if g1 is Memory.SYSTEM else ()
            assert ways(g1, memory) == tuple(spill_path(tier, "G1", bounced=bounce).via for bounce in (*lent, True))
            assert ways(memory, g1) == tuple(load_path(tier, via_host=host).via for host in (True, False))
    for memory, tier in tiers.items():
        assert ways(Memory.PINNED, memory) == (spill_path(tier, "G2").via,)


@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
@pytest.mark.parametrize(("prefill", "decode"), [*itertools.product(G1, repeat=2)])
def test_a_transport_between_two_pools_works_or_is_refused_by_the_compiler(
    transport: str, prefill: str, decode: str
) -> None:
    said, planned = found(prefill, decode, transport)

    if planned:
        assert transport in ways(G1[prefill], PEERS[decode])
    else:
        assert {one.code for one in said} <= {"D525", "D327"}


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_a_transport_of_host_memory_is_refused_between_gpus_with_those_that_work_there(transport: str) -> None:
    said, planned = found("cuda", "cuda", transport)

    assert not planned
    assert [(one.code, one.message, one.notes) for one in said] == [
        ("D525", f"engine `native` does not move KV by `{transport}` on `cuda`", ("it moves KV by `nvlink`, `nixl`",))
    ]
    assert found("cuda", "cuda", "nvlink") == found("cuda", "cuda", "nixl") == ([], True)


@pytest.mark.parametrize(("prefill", "decode"), [*itertools.product(G1, repeat=2)])
def test_untold_the_compiler_finds_the_first_way_or_says_that_there_is_none(prefill: str, decode: str) -> None:
    said, planned = found(prefill, decode)

    assert planned == bool(ways(G1[prefill], PEERS[decode]))
    assert [one.code for one in said] == ([] if planned else ["D327"])
    for way in ("shm", "tcp", "nixl", "nvlink") if planned else ():
        assert found(prefill, decode, way)[1] == (way in ways(G1[prefill], PEERS[decode]))


@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
def test_a_transport_refuses_memory_that_it_does_not_move(transport: str) -> None:
    layout = KvLayout(1, 1, 16, 16, "uint8", 1)
    pool = HostPool(layout, 2)
    on_gpu: Any = SimpleNamespace(layout=layout, blocks=2, device=0, address=0, nonce=bytes(16), heads=pool.heads)
    made = [make_transport(transport, bytes(32)) for _ in range(2)]

    if transport in ways(Memory.SYSTEM, Memory.PEER_SYSTEM):
        made[0].register(pool)
        with pytest.raises(TransportError, match="moves host memory, and this pool is memory of GPU 0"):
            made[1].register(on_gpu)
    else:
        with pytest.raises(TransportError, match="moves memory of GPUs"):
            made[0].register(pool)
    pool.close()


def test_what_is_refused_says_why_in_words_of_its_own() -> None:
    refused = {found.reason for found in MATRIX.values() if isinstance(found, Refused)}

    assert len(refused) == 9
    assert all(20 < len(reason) < 120 for reason in refused)
