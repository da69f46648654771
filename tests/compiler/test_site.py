"""What a site may write of its jobs, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError, Diagnostic
from dynamoc.compiler.sbatch_options import OF_THE_PLAN, OPTIONS, WITH_FIELD
from dynamoc.compiler.source import read_source

NODES = [{"name": "cpu", "cpus": 8, "memory": "16 GiB"}]


def text_of(site: dict[str, Any]) -> str:
    return yaml.safe_dump({"name": "site", "nodes": NODES, "site": site}, sort_keys=False)


def read(text: str) -> Cluster:
    return read_cluster(read_source(text, "cluster.yaml"))


def refused(site: dict[str, Any]) -> Diagnostic:
    with pytest.raises(CompileError) as error:
        read(text_of(site))
    (diagnostic,) = error.value.diagnostics
    return diagnostic


def repaired(site: dict[str, Any], diagnostic: Diagnostic) -> Cluster:
    """The file with the last fix applied."""
    text = text_of(site)
    for edit in sorted(diagnostic.fixes[-1].edits, key=lambda e: -e.start):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return read(text)


@pytest.mark.parametrize(
    ("site", "code", "said"),
    [
        ({"directives": {"exclusve": True}}, "D113", "`exclusve` is not an option of sbatch"),
        ({"directives": {"qwertyuiop": 1}}, "D113", "`qwertyuiop` is not an option of sbatch"),
        ({"directives": {"partition": "x"}}, "D113", "`partition` is not the site's to set"),
        ({"directives": {"output": "x"}}, "D113", "`output` is not the site's to set"),
        ({"extra": ["--wrap=x"]}, "D113", "`wrap` is not the site's to set"),
        ({"runtime": "image"}, "D116", "`runtime` has no effect"),
        ({"scratch": "/scratch"}, "D116", "`scratch` has no effect"),
        ({"runtime": "path", "wheels": "/wheels"}, "D116", "`wheels` has no effect"),
        ({"sgement": "off"}, "D110", "unknown field `sgement`"),
    ],
)
def test_a_mistake_has_a_fix_that_reads(site: dict[str, Any], code: str, said: str) -> None:
    diagnostic = refused(site)

    assert (diagnostic.code, diagnostic.message) == (code, said)
    repaired(site, diagnostic)


@pytest.mark.parametrize(
    "site",
    [
        {"segment": "sometimes"},
        {"runtime": "wheel"},
        {"scratch": "scratch", "runtime": "archive"},
        {"image_cache": "images"},
        {"mounts": ["/a"]},
        {"mounts": ["/a:b"]},
        {"mounts": ["/a:/b:rx"]},
        {"mounts": ["/a,/b:/c"]},
        {"extra": ["-x"]},
        {"extra": ["--x=a\nb"]},
        {"extra": ["--x y"]},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(site: dict[str, Any]) -> None:
    assert refused(site).code in ("D112", "D113")


def test_an_option_that_we_do_not_know_goes_under_extra() -> None:
    (help_, *_) = refused({"directives": {"qwertyuiop": 1}}).helps

    assert help_ == "write `--qwertyuiop` under `extra` if this site's sbatch has it"
    assert read(text_of({"extra": ["--qwertyuiop=1"]})).site["extra"] == ["--qwertyuiop=1"]


def test_every_option_has_one_place() -> None:
    assert not OPTIONS & OF_THE_PLAN
    assert not OPTIONS & WITH_FIELD
    assert not WITH_FIELD & OF_THE_PLAN
