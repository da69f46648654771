"""The two registries: well-formed, unambiguous, and the pages in docs/ are what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dynamoc.runtime import environment
from dynamoc.runtime.environment import VARIABLES, EnvironmentVariableError
from dynamoc.runtime.metrics import METRICS, Metrics
from dynamoc.runtime.registries import PAGES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_registry_says(name):
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), (
        f"docs/{name} is stale: run `python -m dynamoc.runtime.registries docs`"
    )


def test_the_module_writes_every_page(tmp_path):
    subprocess.run([sys.executable, "-m", "dynamoc.runtime.registries", str(tmp_path)], check=True, timeout=60)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {n: page() for n, page in PAGES.items()}


def test_every_metric_can_be_made_and_is_on_its_page():
    metrics = Metrics()
    page = PAGES["metrics.md"]()
    for metric in METRICS:
        getattr(metrics, metric.type)(metric.name)
        assert f"| `{metric.name}` | {metric.type} |" in page
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_names_follow_prometheus(metric):
    assert re.fullmatch(r"dynamoc_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert metric.doc.endswith(".")
    if metric.type == "histogram":
        assert metric.name.endswith(("_seconds", "_bytes", "_blocks", "_tokens"))
        assert list(metric.buckets) == sorted(metric.buckets)


def test_variables_have_one_name_each_and_parse_their_default():
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
    for variable in VARIABLES:
        assert variable.name.startswith(environment.PREFIX)
        environment.read(variable.name, {})


def test_a_wrong_value_is_named_with_what_is_expected():
    with pytest.raises(EnvironmentVariableError, match=r"DYNAMOC_INCARNATION='two'.*expected integer"):
        environment.read("DYNAMOC_INCARNATION", {"DYNAMOC_INCARNATION": "two"})


def test_a_misspelt_variable_is_found():
    assert environment.unknown({"DYNAMOC_LOG_LEVLE": "debug", "PATH": "", "DYNAMOC_NODE": "1"}) == (
        "DYNAMOC_LOG_LEVLE",
    )


def test_every_variable_that_is_read_is_registered():
    """A name with our prefix in the source is a registered one."""
    known = {variable.name for variable in VARIABLES}
    for folder in ("runtime", "launcher", "compiler"):
        for path in (ROOT / folder).rglob("*.py"):
            assert set(re.findall(r"\"(DYNAMOC_[A-Z_]+)\"", path.read_text())) <= known, path
