"""The lock: equal input gives equal bytes, and each change of a spec drifts where it should and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from generators import Case, cases, shuffled
from hypothesis import given, settings
from hypothesis import strategies as st
from proving import ROOT, cards

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.drift import ABSENT, DriftClass, changes, difference, drift_of
from dynamoc.compiler.lock import LOCK, Lock, LockError, lock_artifact, lock_in, read_lock, unpinned_images
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import build_plan, compile_spec
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

quick = settings(max_examples=25, deadline=None)
written = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
"""What a spec can hold: no NUL, no half of a character."""
DIGEST = "sha256:" + "0123456789abcdef" * 4
SITE = (ROOT / "specs/clusters/h200x8x5.yaml").read_text()
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
SERVED: dict[str, Any] = {
    "dynamoc": 1,
    "name": "pair",
    "model": {"ref": LLAMA},
    "defaults": {"engine": "vllm", "version": "0.24.0", "image": f"vllm/vllm-openai@{DIGEST}"},
    "components": {
        "frontend": {"role": "frontend", "port": 8000},
        "router": {"role": "router"},
        "prefill": {"role": "prefill", "replicas": 2, "args": {"tensor-parallel-size": 4, "max-model-len": 16384}},
        "decode": {
            "role": "decode",
            "args": {"tensor-parallel-size": 8, "max-model-len": 16384, "compilation-config": {"level": 3, "a": [1]}},
            "env": {"NCCL_DEBUG": "WARN"},
        },
    },
    "edges": ["frontend -> router -> prefill -> decode"],
    "load": {"isl": 8192, "osl": 1024},
    "time_limit": "4:00:00",
    "allow": [{"code": "D305", "reason": "the hosts are larger"}],
}
OURS: dict[str, Any] = {
    "dynamoc": 1,
    "name": "pair",
    "model": {"ref": LLAMA, "revision": "abc"},
    "defaults": {"engine": "mocker", "device": "cuda", "block_size": 64, "context_length": 16384},
    "components": {
        "frontend": {"role": "frontend", "port": 8000},
        "router": {"role": "router"},
        "prefill": {"role": "prefill", "replicas": 2, "parallel": {"tp": 4}},
        "decode": {"role": "decode", "parallel": {"tp": 8}},
    },
    "edges": ["frontend -> router -> prefill -> decode"],
}

STRANGE = SERVED | {
    "defaults": {"engine": "vllm"},
    "components": {
        "frontend": {"role": "frontend"},
        "router": {"role": "router"},
        "prefill": {
            "role": "prefill",
            "args": {"tensor-parallel-size": 4, "strange": {"b": [{"d": 1, "c": 2}], "a": 1}},
        },
        "decode": {"role": "decode", "args": {"tensor-parallel-size": 8, "stranger": 1, "strange": None}},
    },
}
"""With flags that no table knows, so that there is something unchecked."""


def site(text: str = SITE) -> Cluster:
    return read_cluster(read_source(text, "cluster.yaml"))


def text_of(spec: str, cluster: Cluster, models: ModelLibrary | None = None) -> str:
    source = read_source(spec, "spec.yaml")
    artifacts = compile_spec(source, cluster, load_target("local"), models or cards())
    return next(artifact.text for artifact in artifacts if artifact.path == LOCK)


def locked(spec: dict[str, Any], cluster: Cluster | None = None, models: ModelLibrary | None = None) -> Lock:
    return read_lock(text_of(to_yaml(spec), cluster or site(), models), "lock.yaml")


def kinds(before: Lock, after: Lock) -> set[str]:
    return {str(drift.kind) for drift in drift_of(before, after)}


def put(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a spec with one value changed; None removes it."""
    changed = copy.deepcopy(spec)
    *way, last = path.split("/")
    at = changed
    for key in way:
        at = at.setdefault(key, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    return changed


@quick
@given(cases(), st.data())
def test_order_and_comments_never_drift(case: Case, data: st.DataObject) -> None:
    again = "# a comment\n" + to_yaml(data.draw(shuffled(case.spec)))

    assert text_of(again, case.cluster) == text_of(case.text, case.cluster)


@pytest.mark.parametrize("spec", [SERVED, OURS, STRANGE], ids=["served", "ours", "strange"])
@quick
@given(data=st.data())
def test_the_order_of_flags_never_drifts(spec: dict[str, Any], data: st.DataObject) -> None:
    assert text_of(to_yaml(data.draw(shuffled(spec))), site()) == text_of(to_yaml(spec), site())


@quick
@given(cases())
def test_a_lock_is_read_as_it_was_written(case: Case) -> None:
    source = read_source(case.text, "spec.yaml")
    artifacts = compile_spec(source, case.cluster, load_target("local"), cards())
    lock = lock_in(artifacts)

    assert drift_of(lock, read_lock(text_of(case.text, case.cluster), "lock.yaml")) == ()
    assert lock.spec == case.spec
    assert set(lock.artifacts) == {str(a.path) for a in artifacts} - {"spec.yaml", "inventory.json", "lock.yaml"}


ALWAYS = {"spec", "artifact"}
PLANNED = ALWAYS | {"plan"}
FILLED = PLANNED | {"defaults"}
SERVED_CHANGES: list[tuple[str, Any, set[str]]] = [
    ("name", "other", PLANNED),
    ("model/served_name", "llama", PLANNED),
    ("model/revision", "v2", PLANNED | {"model"}),
    ("defaults/version", "0.23.0", ALWAYS),
    ("defaults/image", "vllm/vllm-openai:v0.24.0", ALWAYS | {"image"}),
    ("components/decode/image", "vllm/vllm-openai:nightly", ALWAYS | {"image"}),
    ("components/frontend/image", "nginx:1", ALWAYS | {"image"}),
    ("components/frontend/port", 8001, PLANNED),
    ("components/prefill/replicas", 3, PLANNED),
    ("components/prefill/args/tensor-parallel-size", 2, FILLED),
    ("components/prefill/args/max-num-seqs", 64, FILLED),
    ("components/decode/args/compilation-config/level", 2, PLANNED),
    ("components/decode/env/NCCL_DEBUG", "INFO", PLANNED),
    ("components/decode/gpus", 8, ALWAYS),
    ("components/router/policy", "random", FILLED),
    ("load/osl", 512, ALWAYS),
    ("load/concurrency", [4], ALWAYS),
    ("time_limit", "5:00:00", ALWAYS),
    ("allow/0/reason", "they are", ALWAYS),
]
OUR_CHANGES: list[tuple[str, Any, set[str]]] = [
    ("model/revision", "def", PLANNED | {"model"}),
    ("model/revision", None, PLANNED | {"model"}),
    ("defaults/block_size", 32, FILLED),
    ("defaults/context_length", 8192, FILLED),
    ("defaults/prefix_caching", False, PLANNED),
    ("defaults/dtype", "float16", FILLED),
    ("components/decode/max_sequences", 32, PLANNED),
    ("components/decode/max_sequences", 64, ALWAYS - {"artifact"}),
    ("components/decode/cpus", 8, PLANNED),
    ("components/decode/parallel/tp", 4, PLANNED),
    ("components/frontend/request_timeout", "30 s", PLANNED),
    ("components/frontend/stalled_client", "30 s", PLANNED),
    ("components/router/queue_capacity", 7, PLANNED),
]


@pytest.mark.parametrize(
    ("spec", "path", "value", "expected"),
    [
        *(pytest.param(SERVED, *row, id=f"served-{row[0]}-{row[1]}") for row in SERVED_CHANGES),
        *(pytest.param(OURS, *row, id=f"ours-{row[0]}-{row[1]}") for row in OUR_CHANGES),
    ],
)
def test_a_change_drifts_in_its_classes(spec: dict[str, Any], path: str, value: Any, expected: set[str]) -> None:
    if path.startswith("allow"):
        changed = spec | {"allow": [{"code": "D305", "reason": value}]}
    else:
        changed = put(spec, path, value)

    assert kinds(locked(spec), locked(changed)) == expected


def test_a_node_that_changes_is_drift_of_the_inventory() -> None:
    larger = site(SITE.replace("cpus: 192", "cpus: 200"))
    moved = site(SITE.replace("model_root: /models", "model_root: /data"))

    assert kinds(locked(OURS), locked(OURS, larger)) == {"inventory"}
    assert {d.change.path for d in drift_of(locked(OURS), locked(OURS, moved))} >= {("digest",), ("model_root",)}


def test_a_node_that_no_worker_needs_is_drift_of_the_inventory_alone() -> None:
    found = drift_of(locked(OURS), locked(OURS, site(SITE.replace("count: 5", "count: 6"))))

    assert [(d.kind, d.change.path) for d in found] == [(DriftClass.INVENTORY, ("digest",))]


def test_where_the_inventory_was_read_is_no_drift() -> None:
    elsewhere = read_cluster(read_source(SITE, "other/place.yaml"))

    assert drift_of(locked(OURS), locked(OURS, elsewhere)) == ()


def test_what_is_known_of_the_model_may_drift_and_move_a_default() -> None:
    spec = put(OURS, "defaults/context_length", None)
    longer = ModelLibrary(
        {LLAMA: cards().texts[LLAMA].replace("max_position_embeddings: 131072", "context_length: 65536")}
    )
    found = drift_of(locked(spec), locked(spec, models=longer))

    assert {str(d.kind) for d in found} == {"defaults", "model", "plan", "artifact"}
    assert ("components", "decode", "context_length") in {d.change.path for d in found if d.kind == "defaults"}


def test_comments_of_a_card_are_no_drift_but_another_folder_is() -> None:
    card = cards().texts[LLAMA]
    plain, told = (locked(OURS, models=ModelLibrary({LLAMA: text})) for text in (card, f"# a comment\n{card}"))
    found = locked(OURS, models=ModelLibrary({LLAMA: card}, {LLAMA: '{"source_sha256": "ab"}'}))

    assert drift_of(plain, told) == ()
    assert [(str(d.kind), d.change.path) for d in drift_of(plain, found)] == [("model", ("folder",))]


def test_waivers_that_were_needed_are_recorded_with_their_reason() -> None:
    reason = "these hosts sleep"
    spec = put(OURS, "components/decode/cpus", 9999) | {"allow": [{"code": "D304", "reason": reason}]}

    assert locked(spec).plan.waived == {"D304": reason}
    assert locked(SERVED).plan.waived == {}, "its waiver was not needed"


def test_what_was_not_proved_is_recorded() -> None:
    unknown = put(SERVED, "model", {"ref": "nobody/unknown"})

    assert locked(SERVED).plan.unchecked == []
    assert locked(unknown).plan.unchecked
    assert locked(unknown).model["facts"] is None


def test_images_are_recorded_with_the_digest_they_are_named_by() -> None:
    tagged = put(SERVED, "components/decode/image", "vllm/vllm-openai:v0.24.0")
    plan, _ = build_plan(read_source(to_yaml(tagged), "spec.yaml"), site(), cards())

    assert locked(SERVED).images["decode"] == {"image": f"vllm/vllm-openai@{DIGEST}", "digest": DIGEST}
    assert locked(tagged).images["decode"] == {"image": "vllm/vllm-openai:v0.24.0", "digest": None}
    assert unpinned_images(plan) == ("vllm/vllm-openai:v0.24.0",)


def test_drift_of_a_version_shows_how_it_was_written() -> None:
    before, after = (
        read_lock(
            text_of(to_yaml(put(SERVED, "defaults/version", "X")).replace("version: X", f"version: {v}"), site()), "x"
        )
        for v in ("0.10", "0.1")
    )
    (found,) = (d.change for d in drift_of(before, after) if d.kind is DriftClass.SPEC)

    assert (found.before, found.after) == ("0.10", 0.1)


def test_another_spelling_means_the_same() -> None:
    spelled = put(put(SERVED, "time_limit", "240 min"), "components/frontend/port", None)
    moved = put(put(OURS, "defaults/block_size", None), "components/prefill/block_size", 64)
    moved = put(moved, "components/decode/block_size", 64)

    assert difference(locked(SERVED), locked(spelled)) == ()
    assert difference(locked(OURS), locked(moved)) == ()
    assert kinds(locked(OURS), locked(moved)) == {"spec"}


def test_a_difference_names_the_component() -> None:
    found = difference(locked(SERVED), locked(put(SERVED, "components/prefill/args/tensor-parallel-size", 2)))
    fields = {one.change.path[0] for one in found if one.about == "prefill"}

    assert {one.about for one in found} == {"prefill"}
    assert {"args", "parallel", "memory", "prefill-0", "prefill-1"} <= fields


@pytest.mark.parametrize(
    ("before", "after", "paths"),
    [
        ({"a": 1}, {"a": True}, [("a",)]),
        ({"a": 1}, {"a": 1.0}, [("a",)]),
        ({"a": None}, {}, [("a",)]),
        ({"a": [1, 2]}, {"a": [1, 3, 4]}, [("a", 1), ("a", 2)]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}, []),
        ({"a": {"b": 1}}, {"a": [1]}, [("a",)]),
    ],
)
def test_changes_are_strict_about_types_and_not_about_order(before: Any, after: Any, paths: list[Any]) -> None:
    assert [change.path for change in changes(before, after)] == paths
    assert repr(ABSENT) == "–"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dynamoc: 1\n", "it has no `format`"),
        ("format: 2\n", "its format is 2"),
        ("format: 1\n", "missing required field"),
        (text_of(to_yaml(OURS), site()).replace("  hash:", "  hush:"), "hush"),
        (text_of(to_yaml(OURS), site()).replace("target: local", "target: [local]"), "target"),
    ],
)
def test_a_file_that_is_no_lock_says_why(text: str, words: str) -> None:
    with pytest.raises(LockError, match=words):
        read_lock(text, "lock.yaml")


def test_a_lock_that_is_not_yaml_is_shown_with_its_place() -> None:
    with pytest.raises(CompileError, match="D101"):
        read_lock("format: [", "lock.yaml")


def test_the_deepest_spec_has_a_lock_that_can_be_read() -> None:
    deep: Any = 1
    for _ in range(28):
        deep = {"k": deep}
    spec = put(SERVED, "components/decode/args/deep", deep)

    assert drift_of(locked(spec), locked(spec)) == ()


@quick
@given(
    st.dictionaries(
        written,
        written
        | st.integers(-(2**62), 2**62)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.none()
        | st.booleans(),
        max_size=4,
    )
)
def test_any_flag_survives_the_lock(flags: dict[str, Any]) -> None:
    """What YAML can hold comes back as it was, so a lock never drifts from itself."""
    lock = locked(OURS)
    lock.components["decode"]["args"] = flags
    assert drift_of(read_lock(lock_artifact(lock).text, "lock.yaml"), lock) == ()
    assert list(changes(read_lock(lock_artifact(lock).text, "lock.yaml").components, lock.components)) == []
