"""Files that are often found beside recipes are told by name, with what to import in their place."""

from __future__ import annotations

import pytest

from dynamoc.compiler.importers.recipe import RecipeError
from dynamoc.compiler.importers.registry import read_recipe

OBJECT = "apiVersion: nvidia.com/v1beta1\nkind: {}\nmetadata: {{name: a}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing in the file"),
        ("---\n---\n", "nothing in the file"),
        (OBJECT.format("DynamoGraphDeploymentRequest"), "asks for a deployment by its goals"),
        (OBJECT.format("EndpointPickerConfig"), "configures a router"),
        (OBJECT.format("ConfigMap") + "---\n" + OBJECT.format("Job"), r"\(ConfigMap, Job\): none is"),
        ("exps: [one]\none: {serving_mode: disagg, total_gpus: 16}\n", "aiconfigurator experiments"),
        ("model: a/b\nbackend: vllm\nworkload: {isl: 10}\n", "without its envelope"),
        ("workflow: {name: w}\noperators: []\n", "sflow workflow"),
        ("on: push\njobs: {build: {}}\n", "workflow of a build service"),
        ("services: {web: {image: nginx}}\n", "compose file"),
        ("apiVersion: v2\nname: chart\nversion: 0.1.0\n", "Helm chart"),
        ("traffic: {}\nengine: {mode: disaggregated}\n", "simulation"),
        ("manifest_version: '0.1'\ntopology: {}\n", "record of a benchmark"),
        ("tensor_parallel_size: 4\nkv_cache_config: {dtype: fp8}\n", "options of one engine"),
        ("metadata:\n  name: {{ .Release.Name }}\n{{- if .x }}\nspec: 1\n", "import what it renders to"),
        ("\x00\x00{{", "not YAML$"),
    ],
)
def test_what_it_is_is_said(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        list(read_recipe(text))
