"""What holds of every compilation, over generated specs and clusters."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import msgspec
from generators import Case, cases, compiled, shuffled, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from proving import cards

from dynamoc.compiler.packing import Resources, pack
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.source import read_source
from dynamoc.runtime.manifest import Manifest, ProcessSpec, decode_manifest, encode_manifest

quick = settings(max_examples=25, deadline=None)


def manifest_of(case: Case) -> Manifest:
    return decode_manifest(texts(compiled(case.text, case.cluster))["plan.json"])


@quick
@given(cases())
def test_every_process_has_what_is_its_alone(case: Case) -> None:
    manifest = manifest_of(case)
    gpus = Counter((p.node, gpu) for p in manifest.processes for gpu in p.gpus)
    ports = Counter((p.node, port) for p in manifest.processes for port in p.ports.values())

    assert all(count == 1 for count in (gpus + ports).values())
    assert len({p.name for p in manifest.processes}) == len(manifest.processes)
    assert all(1 <= port <= 65535 for _, port in ports)


@quick
@given(cases())
def test_every_replica_is_placed_with_its_gpus(case: Case) -> None:
    manifest = manifest_of(case)
    for name, component in case.spec["components"].items():
        processes = [p for p in manifest.processes if p.component == name]
        on_gpus = case.spec["defaults"]["device"] == "cuda" and component["role"] not in ("frontend", "router")

        assert [p.replica for p in processes] == list(range(component.get("replicas", 1)))
        assert all(has_gpus(p, component.get("parallel", {}).get("tp", 1) if on_gpus else 0) for p in processes)
        assert all(p.node < len(case.cluster.nodes) for p in processes)


def has_gpus(process: ProcessSpec, count: int) -> bool:
    """Contiguous, numbered by ranks, and visible to the process if it is a worker."""
    first = process.gpus[0] if process.gpus else 0
    visible = ",".join(map(str, process.gpus))
    return (
        process.gpus == tuple(range(first, first + count))
        and process.ranks == tuple(range(count))
        and (process.worker is None or process.env["CUDA_VISIBLE_DEVICES"] == visible)
    )


@quick
@given(cases())
def test_shared_memory_stays_on_a_node_and_wishes_are_kept(case: Case) -> None:
    manifest = manifest_of(case)
    nodes = {name: {p.node for p in manifest.processes if p.component == name} for name in case.spec["components"]}
    for edge in manifest.edges:
        if edge.kind == "kv":
            assert edge.transport in ("shm", "tcp")
            assert edge.transport == "tcp" or len(nodes[edge.source] | nodes[edge.target]) == 1
    pinned = case.spec.get("placement", {}).get("same_node", [])
    assert len(set().union(*(nodes[name] for name in pinned))) <= 1


@quick
@given(cases())
def test_a_manifest_survives_its_file(case: Case) -> None:
    text = texts(compiled(case.text, case.cluster))["plan.json"]
    manifest = decode_manifest(text)

    unnamed = encode_manifest(msgspec.structs.replace(manifest, plan_hash=""))

    assert encode_manifest(manifest) == text
    assert manifest.plan_hash == hashlib.blake2b(unnamed.encode(), digest_size=16).hexdigest()


@quick
@given(cases(), st.data())
def test_order_and_comments_change_no_artifact(case: Case, data: st.DataObject) -> None:
    again = Case(data.draw(shuffled(case.spec)), case.cluster)
    lines = again.text.splitlines()
    spot = data.draw(st.integers(0, len(lines)))
    commented = "\n".join([*lines[:spot], "# nothing to see", "", *lines[spot:]])
    first, second = texts(compiled(case.text, case.cluster)), texts(compiled(commented, case.cluster))

    assert {path for path in first if first[path] != second[path]} <= {"spec.yaml"}


@quick
@given(cases())
def test_the_resolved_spec_gives_the_same_plan(case: Case) -> None:
    first = texts(compiled(case.text, case.cluster))
    second = texts(compiled(first["resolved.yaml"], case.cluster))

    assert second["plan.json"] == first["plan.json"]
    assert second["resolved.yaml"] == first["resolved.yaml"]


@quick
@given(cases())
def test_a_valid_spec_has_no_findings(case: Case) -> None:
    """A false rejection is the worst bug of a prover."""
    _, found = build_plan(read_source(case.text, "spec.yaml"), case.cluster, cards())

    assert found == ()


needs = st.builds(Resources, gpus=st.integers(0, 5), cpus=st.integers(0, 4), memory_bytes=st.integers(0, 3))
rooms = st.builds(Resources, gpus=st.integers(0, 8), cpus=st.integers(0, 8), memory_bytes=st.integers(0, 6))


@given(st.lists(needs, min_size=1, max_size=5), st.lists(rooms, min_size=1, max_size=3))
def test_a_fit_is_found_exactly_where_one_exists(demands: list[Resources], there: list[Resources]) -> None:
    def fits(choice: tuple[int, ...]) -> bool:
        free = list(there)
        for demand, node in zip(demands, choice, strict=True):
            if not demand.fits(free[node]):
                return False
            free[node] = free[node].minus(demand)
        return True

    found = pack(demands, there)

    assert (found is not None) == any(fits(c) for c in itertools.product(range(len(there)), repeat=len(demands)))
    assert found is None or fits(found)
