"""The JSON schema for editors says what the compiler does."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from proving import ROOT

from dynamoc.compiler.spec import json_schema
from dynamoc.launcher.cli import root

COMMITTED = ROOT / "specs/schema.json"
GRAPHS = sorted((ROOT / "specs/graphs").glob("*.yaml"))
WRONG = sorted((ROOT / "tests/golden/errors").glob("d11*.yaml"))


def plain_data(text: str) -> Any:
    from dynamoc.compiler.scalars import plain
    from dynamoc.compiler.source import read_source

    return plain(read_source(text, "spec.yaml").data)


def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_committed_schema_is_the_model_s(golden: Any) -> None:
    golden.check(COMMITTED, json.dumps(json_schema(), indent=2) + "\n")


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(root, ["schema"])

    assert result.exit_code == 0
    assert result.output == COMMITTED.read_text()


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_shipped_graphs_are_valid(path: Any) -> None:
    validator().validate(plain_data(path.read_text()))


BEYOND_SCHEMAS = {
    "d111_no_ref",  # one of two fields
    "d112_float_for_integer",  # JSON has no two kinds of numbers
    "d113_same_node_mixed",
    "d114_zero_seconds",
    "d115_blocks_and_memory",
    "d116_cache_on_a_node",
    "d116_kv_field_of_other_policy",
    "d116_revision_of_path",
    "d116_version_of_native",
}


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_an_editor_refuses_what_the_compiler_refuses_for_its_shape(path: Any) -> None:
    """But for what a schema cannot say: fields that exclude each other, or have no effect beside others."""
    assert validator().is_valid(plain_data(path.read_text())) is (path.stem in BEYOND_SCHEMAS)


def fields_of(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    parts = [schema, *schema["$defs"].values()]
    return [(f"{part['title']}.{name}", field) for part in parts for name, field in part.get("properties", {}).items()]


@pytest.mark.parametrize(
    ("name", "field"), fields_of(json_schema()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_field_has_a_description_and_an_example(name: str, field: dict[str, Any]) -> None:
    assert field["description"].endswith(".")
    assert field["examples"]


def test_examples_are_valid_for_their_field() -> None:
    schema = json_schema()
    for name, field in fields_of(schema):
        for example in field["examples"]:
            jsonschema.Draft202012Validator({**field, "$defs": schema["$defs"]}).validate(example), name
