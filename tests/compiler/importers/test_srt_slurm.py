from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynamoc.compiler.importers.recipe import Imported, RecipeError
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.scalars import plain

SAMPLES = Path(__file__).parent / "samples"
MODEL = "model: {path: 'hf:a/b', container: c, precision: fp8}\n"


def imported(text: str) -> Imported:
    (found,) = read_recipe(text)
    return found


def sample(name: str) -> Imported:
    return imported((SAMPLES / name).read_text())


def worker(found: Imported, name: str) -> dict[str, Any]:
    return dict(found.spec["components"][name])


def test_a_recipe_becomes_a_spec() -> None:
    found = sample("srt_v1.yaml")

    assert plain(found.spec) == {
        "dynamoc": 1,
        "name": "demo-2p1d",
        "model": {
            "ref": "example/Large-Model-FP8",
            "revision": "0123456789abcdef0123456789abcdef01234567",
            "precision": "fp8",
            "served_name": "example/Large-Model",
        },
        "defaults": {
            "engine": "sglang",
            "version": "0.5.8.post1",
            "image": "lmsysorg/sglang:v0.5.8.post1-cu130",
            "entrypoint": "dynamo",
            "env": {"SHARED": "yes"},
        },
        "components": {
            "frontend": {"role": "frontend", "replicas": 3, "env": {"SHARED": "yes", "DYN_TOKENIZER": "fast"}},
            "router": {"role": "router", "policy": "kv", "temperature": 0.5},
            "prefill": {
                "role": "prefill",
                "replicas": 2,
                "gpus": 8,
                "nodes": 2,
                "args": {
                    "served-model-name": "example/Large-Model",
                    "tp-size": 8,
                    "mem-fraction-static": 0.8,
                    "cuda-graph-bs": [1, 2, 4],
                    "disable-cuda-graph": True,
                },
                "env": {"PYTHONUNBUFFERED": "1", "SGLANG_FLAG": "True"},
            },
            "decode": {
                "role": "decode",
                "replicas": 1,
                "gpus": 16,
                "nodes": 2,
                "args": {
                    "served-model-name": "example/Large-Model",
                    "tensor-parallel-size": 16,
                    "mem-fraction-static": 0.75,
                    "nested": {"inner": None, "deep": {"list": ["a", "1", 0.1]}},
                },
                "env": {"PYTHONUNBUFFERED": "1"},
            },
        },
        "edges": ["frontend -> router -> prefill -> decode"],
        "placement": {"reserve_nodes": 1},
        "load": {"isl": 8192, "osl": 1024, "concurrency": [32, 64], "request_rate": "inf"},
        "time_limit": "4:00:00",
    }


def test_the_cluster_has_the_nodes_and_the_facts_of_the_site() -> None:
    cluster = sample("srt_v1.yaml").cluster

    assert cluster["nodes"][0]["count"] == 2 + 2 + 1, "workers, and one node for etcd and NATS"
    assert cluster["nodes"][0]["gpus"] == {"count": 8, "kind": "H200"}
    assert cluster["site"] == {
        "partition": "batch",
        "account": "team",
        "mounts": ["/data:/data:ro"],
        "directives": {"mem": "0", "exclusive": True},
    }


def test_what_is_not_mapped_is_named() -> None:
    found = sample("srt_v1.yaml")

    assert set(found.unmapped) == {
        "frontend.args.router-queue-threshold",
        "benchmark.num_warmup_mult",
        "srun_options.mpi",
        "extra_mount[1]",
        "setup_script",
    }
    assert set(found.ignored) == {
        "dynamo.version",
        "dynamo.request_plane",
        "identity.frameworks.dynamo",
        "frontend.nginx_container",
        "health_check.max_attempts",
        "health_check.interval_seconds",
        "benchmark.type",
    }


def test_both_schemas_say_the_same() -> None:
    first, second = sample("srt_v1.yaml"), sample("srt_v2.yaml")

    assert first.spec == second.spec
    assert first.cluster == second.cluster
    assert "roles.decode.critical" in second.unmapped
    assert "services[2].command" in second.unmapped


def recipe(resources: str, config: str = "", rest: str = "") -> str:
    return (
        f"name: x\n{MODEL}resources: {{gpu_type: h100, gpus_per_node: 8, {resources}}}\nbackend: {{{config}}}\n{rest}"
    )


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ("agg_nodes: 1, agg_workers: 1", 8),
        ("agg_nodes: 1, agg_workers: 4", 2),
        ("agg_nodes: 2, agg_workers: 1", 16),
        ("agg_nodes: 1, agg_workers: 1, gpus_per_agg: 4", 4),
        ("agg_workers: 1", 8),
    ],
)
def test_gpus_of_a_worker_follow_from_nodes_and_workers(resources: str, gpus: int) -> None:
    assert worker(imported(recipe(resources)), "worker")["gpus"] == gpus


def test_decode_without_nodes_shares_those_of_prefill() -> None:
    found = imported(
        recipe("prefill_nodes: 1, prefill_workers: 1, gpus_per_prefill: 4, decode_nodes: 0, decode_workers: 1")
    )

    assert worker(found, "decode")["gpus"] == 4, "as many as prefill has"
    assert "nodes" not in worker(found, "decode")
    assert "nodes" not in worker(found, "prefill"), "its nodes are not its own"
    assert found.cluster["nodes"][0]["count"] == 1


@pytest.mark.parametrize(
    ("written", "read"), [("'4x8x16'", [4, 8, 16]), ("[1, '2']", [1, 2]), ("7", [7]), ("'4,8'", None), ("[]", None)]
)
def test_concurrencies_in_every_spelling(written: str, read: list[int] | None) -> None:
    rest = f"benchmark: {{isl: 10, osl: 5, concurrencies: {written}}}"
    found = imported(recipe("agg_nodes: 1, agg_workers: 1", rest=rest))

    assert found.spec["load"].get("concurrency") == read
    assert ("benchmark.concurrencies" in found.unmapped) is (read is None)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("lmsysorg/sglang:v0.5.8-cu130", "0.5.8"),
        ("lmsysorg/sglang:nightly-dev", None),
        ("nvcr.io/nvidia/ai-dynamo/sglang-runtime:1.1.1", None),
        ("registry:5000/lmsysorg/sglang", None),
    ],
)
def test_only_the_engines_own_image_tells_its_version(image: str, version: str | None) -> None:
    text = recipe("agg_nodes: 1, agg_workers: 1").replace("container: c", f"container: '{image}'")

    assert imported(text).spec["defaults"].get("version") == version


def test_an_engine_of_ours_has_no_image_and_no_flags_of_another() -> None:
    text = recipe("agg_nodes: 1, agg_workers: 1", "type: mocker, mocker_config: {aggregated: {speedup-ratio: 10}}")
    found = imported(text)

    assert found.spec["defaults"] == {"engine": "mocker"}
    assert {"model.container", "backend.mocker_config.aggregated.speedup-ratio"} <= set(found.unmapped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (recipe("agg_nodes: 1"), "no workers"),
        (recipe("agg_nodes: many, agg_workers: 1"), "`resources.agg_nodes` takes a whole number, not `many`"),
        (recipe("agg_nodes: true, agg_workers: 1"), "whole number"),
        (recipe("agg_nodes: 1, agg_workers: 1", "type: tilert"), "the engine `tilert`"),
        (recipe("agg_nodes: 1, agg_workers: 1", "sglang_config: {aggregated: [1]}"), "takes a mapping"),
    ],
)
def test_what_cannot_be_imported_is_said(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        imported(text)
