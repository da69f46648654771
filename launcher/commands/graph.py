"""`dynamoc graph SPEC -o FILE`: draw the pipeline."""

from __future__ import annotations

from pathlib import Path

import click

from dynamoc.launcher.reading import CLUSTER, SPEC, Findings, read_inputs

FORMATS = {".svg": "to_svg", ".mmd": "to_mermaid", ".dot": "to_dot"}


@click.command(name="graph")
@SPEC
@CLUSTER
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Picture to write: .svg, .mmd (Mermaid) or .dot (Graphviz).",
)
def command(spec: Path, cluster: Path | None, output: Path) -> None:
    """Draw SPEC as it is placed: components, replicas, GPUs, requests and KV with its transport."""
    if output.suffix not in FORMATS:
        raise click.UsageError(f"{output.name} ends with none of {', '.join(FORMATS)}")
    from pathlib import PurePosixPath

    from dynamoc.compiler import drawing
    from dynamoc.compiler.artifacts import Artifact, write
    from dynamoc.compiler.pipeline import build_plan

    findings = Findings()
    with findings.shown():
        inputs = read_inputs(spec, cluster, findings)
        plan, warnings = build_plan(inputs.source, inputs.cluster, inputs.models)
    findings.show(warnings)
    text = getattr(drawing, FORMATS[output.suffix])(plan)
    try:
        write((Artifact(PurePosixPath(output.name), text),), output.parent)
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from error
    click.echo(output)
