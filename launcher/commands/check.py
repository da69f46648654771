"""`dynamoc check SPEC`: every error at once."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dynamoc.launcher.reading import CLUSTER, FORMAT, SPEC, Findings, read_inputs


@click.command(name="check")
@SPEC
@CLUSTER
@FORMAT
def command(spec: Path, cluster: Path | None, form: str) -> None:
    """Prove SPEC against an inventory. Exit 0: it fits; 1: it is wrong."""
    from dynamoc.compiler.pipeline import build_plan

    findings = Findings(form, sys.stdout)
    with findings.shown():
        inputs = read_inputs(spec, cluster, findings)
        plan, warnings = build_plan(inputs.source, inputs.cluster, inputs.models)
    findings.show(warnings)
    if form == "text":
        size = f"{len(plan.processes)} processes on {plan.nodes} of {len(inputs.cluster.nodes)} nodes"
        for line in plan.unchecked:
            click.echo(f"unchecked: {line}")
        click.echo(f"{plan.graph.name} fits {inputs.cluster.name}: {size}")
