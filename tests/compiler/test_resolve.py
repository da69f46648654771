"""Spec to graph: defaults, names, edges, geometry."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.graph import EdgeKind, Graph, WorkerOptions
from dynamoc.compiler.models import ModelLibrary, ModelTextError, read_geometry
from dynamoc.compiler.read import read_spec, reporter_for
from dynamoc.compiler.resolve import resolve
from dynamoc.compiler.source import read_source
from dynamoc.compiler.spec import FrontendSpec, RouterSpec
from dynamoc.runtime.manifest import FrontendSettings, Role, RouterSettings

CARD = "layers: 30\nhidden: 576\nheads: 9\nkv_heads: 3\nhead_dim: 64\nvocabulary: 49152\ncontext_length: 8192\n"
HEAD = "dynamoc: 1\nname: demo\n"
MODEL = "model: {ref: owner/model}\n"
BODY = """\
components:
  front: {role: frontend}
  route: {role: router}
  fill: {role: prefill}
  gen: {role: decode}
edges: [front -> route -> fill -> gen]
"""


def graph_of(text: str, texts: dict[str, str] | None = None) -> Graph:
    source = read_source(text, "spec.yaml")
    report = reporter_for(source)
    library = ModelLibrary({"owner/model": CARD} if texts is None else texts)
    graph = resolve(read_spec(source, report), report, library)
    report.stop_on_errors()
    return graph


def worker(graph: Graph, name: str) -> WorkerOptions:
    options = graph.component(name).worker
    assert options is not None
    return options


def codes_of(text: str, texts: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(CompileError) as caught:
        graph_of(text, texts)
    return [d.code for d in caught.value.diagnostics]


def test_the_shortest_spec_has_every_default() -> None:
    graph = graph_of(HEAD + MODEL + BODY)

    assert [c.role for c in graph.components] == [Role.FRONTEND, Role.ROUTER, Role.PREFILL, Role.DECODE]
    assert graph.model.served_name == "model"
    front = graph.component("front")
    assert (front.port, front.replicas, front.frontend) == (8000, 1, FrontendSettings())
    assert graph.component("route").router == RouterSettings()
    options = worker(graph, "gen")
    assert (options.engine, options.device, options.dtype, options.kv_dtype) == (
        "native",
        "cpu",
        "bfloat16",
        "bfloat16",
    )
    assert (options.block_size, options.context_length, options.parallel.gpus) == (16, 8192, 1)
    assert (options.kv_blocks, options.kv_bytes, options.cpus, options.args) == (None, None, None, {})


def test_a_worker_says_it_over_the_defaults() -> None:
    defaults = (
        "defaults: {engine: mocker, dtype: float16, kv_blocks: 7, parallel: {tp: 2, pp: 3}, "
        "args: {a: 1, b: {c: 2}}, env: {A: x, B: 010}, prefix_caching: false}\n"
    )
    body = BODY.replace(
        "{role: prefill}",
        "{role: prefill, kv_memory: 1 MiB, parallel: {tp: 4}, args: {b: 0.90}, env: {B: '1'}, prefix_caching: true}",
    )
    graph = graph_of(HEAD + MODEL + defaults + body)
    fill, gen = worker(graph, "fill"), worker(graph, "gen")

    assert (fill.kv_bytes, fill.kv_blocks, gen.kv_bytes, gen.kv_blocks) == (2**20, None, None, 7)
    assert (fill.parallel.tp, fill.parallel.pp, gen.parallel.tp) == (4, 3, 2)
    assert (fill.args, gen.args) == ({"a": 1, "b": 0.9}, {"a": 1, "b": {"c": 2}})
    assert (graph.component("fill").env, graph.component("gen").env) == ({"A": "x", "B": "1"}, {"A": "x", "B": "010"})
    assert (fill.prefix_caching, gen.prefix_caching) == (True, False)
    assert fill.kv_dtype == "float16"
    assert graph.component("route").env == {}, "defaults are for workers"


def test_numbers_of_args_are_ordinary_ones() -> None:
    graph = graph_of(
        HEAD + MODEL + BODY.replace("{role: prefill}", "{role: prefill, args: {a: 1, b: [2.5, {c: 0x10}]}}")
    )

    assert msgspec.json.encode(worker(graph, "fill").args) == b'{"a":1,"b":[2.5,{"c":16}]}'


@pytest.mark.parametrize("value", ["9223372036854775808", "-9223372036854775809", ".inf", ".nan"])
def test_numbers_that_no_manifest_holds(value: str) -> None:
    assert codes_of(HEAD + MODEL + BODY.replace("{role: prefill}", f"{{role: prefill, args: {{a: [{value}]}}}}")) == [
        "D113"
    ]


def test_every_setting_of_the_manifest_can_be_written() -> None:
    units = ("_s", "_bytes")

    def bare(name: str) -> str:
        return next((name.removesuffix(unit) for unit in units if name.endswith(unit)), name)

    for spec, settings in ((FrontendSpec, FrontendSettings), (RouterSpec, RouterSettings)):
        assert {bare(name) for name in settings.__struct_fields__} <= set(spec.model_fields)


def test_settings_reach_the_graph_in_their_units() -> None:
    body = BODY.replace(
        "{role: frontend}", "{role: frontend, max_body: 1 MiB, request_timeout: 2 min, stalled_client: 500 ms}"
    )
    body = body.replace("{role: router}", "{role: router, policy: random, queue_timeout: 1 min, queue_capacity: 3}")
    graph = graph_of(HEAD + MODEL + body)

    expected = FrontendSettings(max_body_bytes=2**20, request_timeout_s=120.0, stalled_client_s=0.5)
    assert graph.component("front").frontend == expected
    assert graph.component("route").router == RouterSettings(policy="random", queue_timeout_s=60.0, queue_capacity=3)


def test_edges_know_what_they_carry() -> None:
    body = BODY.replace(
        "[front -> route -> fill -> gen]", "[front ->route-> fill, {from: fill, to: gen, transport: tcp}]"
    )
    graph = graph_of(HEAD + MODEL + body)

    assert [(e.source, e.target, e.kind, e.transport, e.at) for e in graph.edges] == [
        ("front", "route", EdgeKind.REQUEST, None, ("edges", 0)),
        ("route", "fill", EdgeKind.REQUEST, None, ("edges", 0)),
        ("fill", "gen", EdgeKind.KV, "tcp", ("edges", 1)),
    ]


@pytest.mark.parametrize(
    ("wish", "groups"),
    [
        ("[fill, gen]", (("fill", "gen"),)),
        ("[[fill, gen], [route]]", (("fill", "gen"), ("route",))),
        ("[]", ()),
    ],
)
def test_same_node_takes_one_group_or_several(wish: str, groups: Any) -> None:
    assert graph_of(HEAD + MODEL + BODY + f"placement: {{same_node: {wish}}}\n").same_node == groups


def test_a_model_by_path() -> None:
    config = json.dumps(
        {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 9}
        | {"max_position_embeddings": 128}
    )
    graph = graph_of(HEAD + "model: {path: /models/tiny/}\n" + BODY, {"/models/tiny/": config})

    assert (graph.model.ref, graph.model.served_name, graph.model.path) == ("tiny", "tiny", "/models/tiny/")
    assert graph.model.geometry is not None
    assert (graph.model.geometry.kv_heads, graph.model.geometry.head_dim) == (4, 16)
    assert worker(graph, "gen").context_length == 128


def test_an_unknown_model_needs_a_context_length() -> None:
    assert codes_of(HEAD + MODEL + BODY, {}) == ["D205"]
    assert worker(graph_of(HEAD + MODEL + "defaults: {context_length: 64}\n" + BODY, {}), "gen").context_length == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "layers"),
        ("layers: 30\n", "hidden_size"),
        (CARD.replace("heads: 9", "heads: nine"), "num_attention_heads"),
        (CARD.replace("30", "0"), "num_hidden_layers"),
        ("[1]", "not a mapping"),
        ("{", "YAML"),
        ('{"text_config": 5}', "text_config"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ModelTextError, match=words):
        read_geometry(text)
    assert codes_of(HEAD + MODEL + BODY, {"owner/model": text}) == ["D205"]


def test_multimodal_configs_keep_the_text_model_inside() -> None:
    inner = "{layers: 1, hidden: 8, heads: 2, vocabulary: 5, context_length: 9}"

    assert read_geometry(f"text_config: {inner}\n").head_dim == 4


@pytest.mark.parametrize("name", ["<worker>", "<x>", "[key]"])
def test_names_that_look_like_our_own_marks(name: str) -> None:
    with pytest.raises(CompileError) as caught:
        graph_of(HEAD + MODEL + BODY.replace("  gen:", f'  "{name}":'))

    assert [d.message for d in caught.value.diagnostics] == [f"`{name}` cannot be a name"]
    with pytest.raises(CompileError) as caught:
        graph_of(HEAD + MODEL + BODY.replace("{role: prefill}", f'{{role: prefill, env: {{"{name}": x}}}}'))

    assert [d.message for d in caught.value.diagnostics] == [f"`{name}` cannot be a name"]


def test_waivers_are_kept_with_the_plan() -> None:
    graph = graph_of(HEAD + MODEL + BODY + "allow: [{code: D503, reason: known}]\n")

    assert [(a.code, a.reason) for a in graph.allow] == [("D503", "known")]


@pytest.mark.parametrize("code", ["D110", "D201", "D301", "D999", "E1"])
def test_some_rules_cannot_be_waived(code: str) -> None:
    assert codes_of(HEAD + MODEL + BODY + f"allow: [{{code: {code}, reason: known}}]\n") == ["D206"]


def test_several_mistakes_of_names_are_reported_together() -> None:
    body = BODY.replace("fill -> gen]", "fil -> gen, {from: x, to: y}]").replace(
        "{role: decode}", "{role: decode, engine: llama-cpp}"
    )

    assert codes_of(HEAD + MODEL + body + "placement: {same_node: [gon]}\n") == ["D204", "D201", "D201", "D201", "D201"]


def test_a_graph_is_the_same_whatever_the_layout_of_the_text() -> None:
    flow = HEAD + MODEL + BODY
    block = flow.replace("  gen: {role: decode}", "  gen:\n    # the second phase\n    role: decode")

    assert graph_of(flow) == graph_of(block)
