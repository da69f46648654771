"""`dynamoc compile SPEC --target local -o DIR`: write the artifacts of a target."""

from __future__ import annotations

from pathlib import Path

import click

from dynamoc.launcher.reading import CLUSTER, SPEC, Findings, read_inputs


@click.command(name="compile")
@SPEC
@CLUSTER
@click.option("--target", "target_name", default="local", show_default=True, help="What to compile for.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the artifacts; other files in it are left alone.",
)
def command(spec: Path, cluster: Path | None, target_name: str, output: Path) -> None:
    """Prove SPEC and write its artifacts; the same input gives the same bytes."""
    from dynamoc.compiler.artifacts import write
    from dynamoc.compiler.pipeline import build_plan, emit
    from dynamoc.compiler.target import UnknownTargetError, load_target

    try:
        target = load_target(target_name)
    except UnknownTargetError as error:
        raise click.UsageError(str(error)) from error
    findings = Findings()
    with findings.shown():
        inputs = read_inputs(spec, cluster, findings)
        plan, warnings = build_plan(inputs.source, inputs.cluster, inputs.models, target)
    findings.show(warnings)
    artifacts = emit(inputs.source, plan, target)
    try:
        write(artifacts, output)
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from error
    for artifact in artifacts:
        click.echo(output / artifact.path)
