"""What engines that are programs of their own are told so that a worker of ours can stand in front of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proving import cards

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.lower import lower
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source
from dynamoc.runtime.manifest import HostRef, Joined, Launch, PortRef, ProcessSpec

SITE = {"engine_pythons": {"vllm": "~/vllm/bin/python"}}
CLUSTER = Cluster("site", (Node("n", 64, 2**40, 8, "H100", 80 * 2**30),), site=SITE)


def leader(engine: str, role: str = "aggregated", **fields: Any) -> tuple[ProcessSpec, Launch]:
    workers = {"w": {"role": role, **fields}}
    if role != "aggregated":
        workers = {"w": {"role": "prefill", **fields}, "d": {"role": "decode", **fields}}
    data = {
        "dynamoc": 1,
        "name": "demo",
        "model": {"ref": "nobody/unknown"},
        "defaults": {"engine": engine, "context_length": 4096},
        "components": {"frontend": {"role": "frontend"}, "router": {"role": "router"}} | workers,
        "edges": [" -> ".join(["frontend", "router", *workers])],
    }
    spec = lower(build_plan(read_source(to_yaml(data), "spec.yaml"), CLUSTER, cards())[0]).process("w-0")
    assert spec.launch is not None
    return spec, spec.launch


def events_of(launch: Launch) -> dict[str, Any]:
    """The configuration as the engine will read it."""
    word = launch.words[launch.words.index("--kv-events-config") + 1]
    assert isinstance(word, Joined)
    text = "".join(str(piece.port) if isinstance(piece, PortRef) else str(piece) for piece in word.pieces)
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(("engine", "more"), [("vllm", {"enable_kv_cache_events": True}), ("sglang", {})])
def test_events_go_to_the_process_beside_the_engine(engine: str, more: dict[str, Any]) -> None:
    spec, launch = leader(engine)

    assert launch.events == PortRef(port=spec.ports["events"])
    endpoint = f"tcp://127.0.0.1:{spec.ports['events']}"
    assert events_of(launch) == {"publisher": "zmq", "topic": "", **more, "endpoint": endpoint}


@pytest.mark.parametrize(
    "fields",
    [
        {"parallel": {"dp": 2}},
        {"prefix_caching": False},
        {"args": {"no-enable-prefix-caching": True}},
        {"args": {"port": 9000}},
        {"args": {"kv-events-config": {"enable_kv_cache_events": False}}},
        {"entrypoint": "dynamo"},
        {"version": "0.8.0"},
    ],
    ids=["ranks with caches of their own", "no cache", "none by args", "own port", "said by args", "dynamo", "old"],
)
def test_no_events_where_nobody_could_use_them_or_they_were_said(fields: dict[str, Any]) -> None:
    _, launch = leader("vllm", **fields)

    assert launch.events is None
    assert not any(isinstance(word, Joined) for word in launch.words)


def test_answers_and_counters_say_what_we_pass_on() -> None:
    assert "--enable-prompt-tokens-details" in leader("vllm")[1].words
    assert "--enable-metrics" in leader("sglang")[1].words
    assert (
        leader("vllm", args={"enable-prompt-tokens-details": True})[1].words.count("--enable-prompt-tokens-details")
        == 1
    )
    assert leader("trtllm")[1].events is None


def test_on_a_cpu_vllm_is_started_by_its_module() -> None:
    words = leader("vllm", device="cpu", block_size=32)[1].words

    assert words[:4] == ("-m", "vllm.entrypoints.openai.api_server", "--model", "nobody/unknown")


def test_engines_that_hand_over_kv_meet_at_ports_of_the_plan() -> None:
    spec, launch = leader("vllm", role="prefill", device="cpu", block_size=32)
    config = json.loads(str(launch.words[launch.words.index("--kv-transfer-config") + 1]))

    assert config == {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}
    assert launch.env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == launch.env["VLLM_HOST_IP"] == HostRef(node=0)
    assert launch.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == PortRef(port=spec.ports["kv"])


def test_an_interpreter_is_the_sites_unless_an_image_brings_one() -> None:
    assert leader("vllm")[1].python == "~/vllm/bin/python"
    assert leader("sglang")[1].python is None
    assert leader("vllm", image="vllm/vllm-openai:v0.24.0")[1].python is None
