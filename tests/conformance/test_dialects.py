"""The compiler's table of engines says what the engines of the runtime say."""

from __future__ import annotations

import msgspec
import pytest

from dynamoc.compiler.dialect import DIALECTS, dialect
from dynamoc.runtime.engines.echo import EchoArguments
from dynamoc.runtime.engines.mocker import MockArguments
from dynamoc.runtime.engines.native.runner import NativeArguments
from dynamoc.runtime.engines.registry import ENGINES


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
