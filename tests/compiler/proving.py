"""Whole compilations of texts, for golden files and error pages."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from dynamoc.compiler.campaign.expand import Inputs, expand
from dynamoc.compiler.campaign.read import base_within, campaign_reporter, read_campaign
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError, Diagnostic, Severity
from dynamoc.compiler.load_plan import gpus_working
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.render import in_order, render_text
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.compiler.trace_facts import TraceFacts
from dynamoc.launcher.load.trace_facts import facts_of

ROOT = Path(__file__).parents[2]
LAPTOP = (ROOT / "specs/clusters/laptop.yaml").read_text()
SPEC_NAME, CLUSTER_NAME, TRACE_NAME = "spec.yaml", "cluster.yaml", "trace.jsonl"


@dataclass(frozen=True)
class Verdict:
    """What a compilation said, in order of place."""

    diagnostics: tuple[Diagnostic, ...]
    rendered: str

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity is Severity.ERROR)

    @property
    def codes(self) -> list[str]:
        return [d.code for d in self.diagnostics]


def cards() -> ModelLibrary:
    """The models we ship cards of."""
    folder = ROOT / "specs/models"
    return ModelLibrary({path.stem.replace("--", "/"): path.read_text() for path in folder.glob("*.yaml")})


def prove_campaign(text: str | bytes) -> Verdict:
    """Expand a campaign that holds its base, as `dynamoc sweep` does, and prove all it makes."""
    inventory = read_cluster(read_source(LAPTOP, CLUSTER_NAME))
    source = read_source(text, SPEC_NAME)
    report = campaign_reporter(source)
    try:
        spec = read_campaign(source, report)
        models = cards()
        inputs = Inputs(source, base_within(source), inventory, load_target("local"), gpus_working, lambda _: models)
        found = expand(spec, inputs, report).warnings
    except CompileError as error:
        found = error.diagnostics
    return Verdict(tuple(in_order(found)), render_text(found, {SPEC_NAME: source.text}))


def facts_in(trace: str) -> TraceFacts:
    """What the launcher reads of the lines of a trace."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TRACE_NAME
        path.write_text(trace)
        facts = facts_of(path)
    return replace(facts, path=TRACE_NAME, fault=facts.fault.replace(str(path.resolve()), TRACE_NAME))


def prove(spec: str | bytes, cluster: str | None = None, target: str = "local", trace: str | None = None) -> Verdict:
    """Compile a spec for a target. `trace` is what stands in `trace.jsonl` beside it."""
    inventory = LAPTOP if cluster is None else cluster
    try:
        site = read_cluster(read_source(inventory, CLUSTER_NAME))
        source = replace(read_source(spec, SPEC_NAME), traces={} if trace is None else {TRACE_NAME: facts_in(trace)})
        _, found = build_plan(source, site, cards(), load_target(target))
    except CompileError as error:
        found = error.diagnostics
    text = spec if isinstance(spec, str) else spec.decode("utf-8", "replace")
    rendered = render_text(found, {SPEC_NAME: text, CLUSTER_NAME: inventory})
    return Verdict(tuple(in_order(found)), rendered)
