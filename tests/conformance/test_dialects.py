"""The compiler's table of engines says what the engines of the runtime say."""

from __future__ import annotations

import msgspec
import pytest

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.dialect import DIALECTS, dialect
from dynamoc.compiler.lower import lower
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source
from dynamoc.runtime.engines.echo import EchoArguments
from dynamoc.runtime.engines.mocker import MockArguments
from dynamoc.runtime.engines.native.runner import NativeArguments
from dynamoc.runtime.engines.registry import ENGINES
from dynamoc.runtime.manifest import FileRef, HostRef, Manifest, decode_manifest, encode_manifest


def test_every_engine_of_ours_has_a_dialect() -> None:
    assert {name for name in DIALECTS if not dialect(name).capabilities.external} == set(ENGINES)
    assert [dialect(name).name for name in DIALECTS] == list(DIALECTS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("native", tuple(field.name for field in msgspec.structs.fields(NativeArguments))),
        ("mocker", tuple(field.name for field in msgspec.structs.fields(MockArguments))),
        ("echo", tuple(field.name for field in msgspec.structs.fields(EchoArguments))),
    ],
)
def test_arguments_are_those_the_engine_reads(name: str, arguments: tuple[str, ...]) -> None:
    assert set(dialect(name).capabilities.arguments or ()) == set(arguments)


SERVED = [name for name in DIALECTS if dialect(name).capabilities.external]
CLUSTER = Cluster("site", tuple(Node(f"n{index}", 64, 2**40, 4) for index in range(4)))


def manifest(engine: str, sizes: dict[str, int], entrypoint: str) -> Manifest:
    """One prefill worker on a node and one decode worker on two or more."""
    data = {
        "dynamoc": 1,
        "name": "demo",
        "model": {"ref": "nobody/unknown"},
        "defaults": {"engine": engine, "entrypoint": entrypoint, "context_length": 4096, "kv_dtype": "fp8"},
        "components": {
            "frontend": {"role": "frontend"},
            "router": {"role": "router"},
            "prefill": {"role": "prefill", "parallel": {"tp": 4}},
            "decode": {"role": "decode", "parallel": sizes},
        },
        "edges": ["frontend -> router -> prefill -> decode"],
    }
    plan, found = build_plan(read_source(to_yaml(data), "spec.yaml"), CLUSTER, ModelLibrary())
    assert found == ()
    return lower(plan)


@pytest.mark.parametrize("entrypoint", ["native", "dynamo"])
@pytest.mark.parametrize("sizes", [{"tp": 4}, {"tp": 8}, {"tp": 4, "pp": 2}])
@pytest.mark.parametrize("engine", SERVED)
def test_a_command_names_only_what_there_is(engine: str, sizes: dict[str, int], entrypoint: str) -> None:
    """Nodes of its own worker, ports that its leader has, files that come with it; and a manifest keeps all of it."""
    found = manifest(engine, sizes, entrypoint)
    for process in found.processes:
        if process.launch is None:
            assert not process.role.is_worker
            continue
        leader = found.process(f"{process.component}-{process.replica}")
        nodes = [p.node for p in found.processes if p.component == process.component]
        words = process.launch.words
        hosts = [word for word in words if isinstance(word, HostRef)]

        assert words[0] == "-m"
        assert {word.node for word in hosts} <= set(nodes)
        assert {word.port for word in hosts if word.port is not None} <= set(leader.ports.values())
        assert {word.name for word in words if isinstance(word, FileRef)} <= set(process.launch.files)
    assert decode_manifest(encode_manifest(found)) == found


@pytest.mark.parametrize("engine", SERVED)
def test_what_the_spec_says_reaches_the_engine(engine: str) -> None:
    launch = manifest(engine, {"tp": 4}, "native").process("decode-0").launch
    assert launch is not None
    told = " ".join([*map(str, launch.words), *launch.files.values()])

    assert "4096" in told
    assert "fp8" in told


@pytest.mark.parametrize("entrypoint", ["native", "dynamo"])
@pytest.mark.parametrize("engine", SERVED)
def test_a_worker_over_nodes_has_one_leader(engine: str, entrypoint: str) -> None:
    found = manifest(engine, {"tp": 8}, entrypoint)
    parts = [p for p in found.processes if p.component == "decode"]

    assert [p.part for p in parts] == [0, 1]
    assert "http" in parts[0].ports
    assert "http" not in parts[1].ports
    assert parts[0].launch != parts[1].launch
