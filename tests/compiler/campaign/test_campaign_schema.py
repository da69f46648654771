"""The JSON schema of campaign files says what the compiler reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from proving import ROOT

from dynamoc.compiler.campaign.read import campaign_reporter, read_campaign
from dynamoc.compiler.campaign.spec import json_schema
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.source import read_source
from dynamoc.launcher.cli import root

COMMITTED = ROOT / "specs/campaign-schema.json"
SHIPPED = [path for path in sorted((ROOT / "examples/campaigns").glob("*.yaml")) if "\ncampaign: " in path.read_text()]
HEAD = "dynamoc: 1\ncampaign: c\nbase: b.yaml\n"
LOADS = "loads: [{isl: 1, osl: 1, concurrency: 1}]\n"


def is_valid(text: str) -> bool:
    data = plain(read_source(text, "c.yaml").data)
    return bool(jsonschema.Draft202012Validator(json_schema()).is_valid(data))


def test_the_committed_schema_is_the_model_s(golden: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    golden.check(COMMITTED, json.dumps(json_schema(), indent=2) + "\n")


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(root, ["schema", "--campaign"])

    assert (result.exit_code, result.output) == (0, COMMITTED.read_text())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_campaigns_are_valid(path: Path) -> None:
    assert is_valid(path.read_text())


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        HEAD + LOADS + "repeat: 2\n",
        HEAD + LOADS + "repeats: 0\n",
        HEAD + LOADS + "axes: {x: []}\n",
        HEAD + LOADS + "axes: {x: {valuse: [1]}}\n",
        HEAD + LOADS + "target: kubernetes\n",
        HEAD + LOADS + "budget: {wall_time: soon}\n",
        HEAD + "loads: [{isl: 1, osl: 1, search: {min: 1}}]\n",
        HEAD + "loads: [{isl: 1, osl: 1, trace: t.jsonl, trace_speed: 0}]\n",
    ],
)
def test_an_editor_refuses_what_the_compiler_refuses_for_its_shape(text: str) -> None:
    source = read_source(text, "c.yaml")
    with pytest.raises(CompileError):
        read_campaign(source, campaign_reporter(source))

    assert not is_valid(text)


def fields() -> list[tuple[str, dict[str, Any]]]:
    schema = json_schema()
    parts = [schema, *schema["$defs"].values()]
    return [(f"{part['title']}.{name}", field) for part in parts for name, field in part.get("properties", {}).items()]


def test_every_field_has_a_description_and_examples_that_are_valid() -> None:
    definitions = json_schema()["$defs"]
    for name, field in fields():
        assert field["description"].endswith("."), name
        assert field["examples"], name
        for example in field["examples"]:
            jsonschema.Draft202012Validator({**field, "$defs": definitions}).validate(example)
