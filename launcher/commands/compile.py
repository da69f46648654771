"""`dynamoc compile SPEC --target local -o DIR`: write the artifacts of a target, or hold to a lock."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamoc.launcher.reading import CLUSTER, EXIT_WRONG, FORMAT, SPEC, Findings, read_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dynamoc.compiler.lock import Lock
    from dynamoc.compiler.target import Target
    from dynamoc.launcher.shipping import Shipment

BESIDE = "lock.yaml"


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
@click.option(
    "--locked",
    is_flag=False,
    flag_value="",
    metavar="[LOCK]",
    help=f"Refuse whatever differs from LOCK, or from {BESIDE} in the output folder.",
)
@FORMAT
def command(spec: Path, cluster: Path | None, target_name: str, output: Path, locked: str | None, form: str) -> None:
    """Prove SPEC and write its artifacts; the same input gives the same bytes.

    A campaign becomes a folder of Slurm arrays, one for points that ask for the same.
    """
    from dynamoc.compiler.artifacts import write
    from dynamoc.compiler.lock import lock_in, unpinned_images
    from dynamoc.compiler.pipeline import build_plan, emit

    target = _target(target_name)
    findings = Findings(form)
    with findings.shown():
        if is_campaign(spec, findings):
            _refuse_options({"--cluster": cluster, "--locked": locked})
            _write_campaign(spec, target.name, output, findings)
            return
        before = None if locked is None else read_lock_file(Path(locked or output / BESIDE))
        inputs = read_inputs(spec, cluster, findings)
        plan, warnings = build_plan(inputs.source, inputs.cluster, inputs.models, target)
    findings.show(warnings)
    shipment = packed(inputs.cluster.site, target.name)
    artifacts = emit(inputs.source, plan, target, inputs.models, shipment.locked if shipment else None)
    if before is not None:
        _refuse_drift(before, lock_in(artifacts), findings)
    _warn_of_images(unpinned_images(plan), findings)
    try:
        write(artifacts if shipment is None else (*artifacts, shipment.artifact), output)
        if shipment is not None:
            click.echo(shipment.write(output))
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from error
    for artifact in artifacts:
        click.echo(output / artifact.path)


def _refuse_options(given: Mapping[str, object]) -> None:
    for option, value in given.items():
        if value is not None:
            raise click.UsageError(f"`{option}` goes with a spec; a campaign names its cluster, and has no lock")


def is_campaign(path: Path, findings: Findings) -> bool:
    """Whether a file is one, and no spec."""
    from dynamoc.launcher.reading import read_file

    data = read_file(path, findings).data
    return isinstance(data, dict) and "campaign" in data


def _write_campaign(path: Path, target: str, output: Path, findings: Findings) -> None:
    from dynamoc.compiler.artifacts import write
    from dynamoc.launcher.campaign.folder import TARGET, FolderError, campaign_artifacts
    from dynamoc.launcher.campaign.opening import open_campaign

    if target != TARGET:
        raise click.UsageError(f"a campaign is compiled with `--target {TARGET}`; `dynamoc sweep` runs it on others")
    opened = open_campaign(path, findings)
    findings.show(opened.campaign.warnings)
    try:
        artifacts = campaign_artifacts(opened)
        shipment = packed(opened.cluster.site, TARGET)
        write(artifacts, output)
        for job in sorted({artifact.path.parent for artifact in artifacts if artifact.path.name == "plan.json"}):
            if shipment is not None:
                write((shipment.artifact,), output / job)
                shipment.write(output / job)
            click.echo(output / job)
    except FolderError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from error
    for folder in sorted({artifact.path.parts[0] for artifact in artifacts}):
        click.echo(output / folder)


def read_lock_file(path: Path) -> Lock:
    """The lock in a file; CompileError where it is not YAML, a usage error where it is none."""
    from dynamoc.compiler.lock import LockError, read_lock

    try:
        return read_lock(path.read_bytes(), str(path))
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error
    except LockError as error:
        raise click.UsageError(str(error)) from error


def packed(site: Mapping[str, Any], target: str) -> Shipment | None:
    """The archive that jobs of this site carry; a usage error where it cannot be made."""
    from dynamoc.launcher.shipping import shipment_for
    from dynamoc.launcher.wheels import ShippingError

    try:
        return shipment_for(site) if target == "slurm" else None
    except ShippingError as error:
        raise click.UsageError(str(error)) from error


def _target(name: str) -> Target:
    from dynamoc.compiler.target import UnknownTargetError, load_target

    try:
        return load_target(name)
    except UnknownTargetError as error:
        raise click.UsageError(str(error)) from error


def _refuse_drift(before: Lock, now: Lock, findings: Findings) -> None:
    """Show what drifted and exit 1, before anything is written."""
    from dynamoc.compiler.drift import drift_of
    from dynamoc.launcher.differences import drift_json, drift_text

    drifts = drift_of(before, now)
    if not drifts:
        return
    if findings.form == "json":
        findings.out.write(drift_json(drifts))
    else:
        kinds = ", ".join(dict.fromkeys(str(drift.kind) for drift in drifts))
        findings.out.write(f"error: this is not what was locked: {kinds}\n\n{drift_text(drifts)}\n")
        findings.out.write("help: compile without `--locked` to lock what is there now\n")
    sys.exit(EXIT_WRONG)


def _warn_of_images(images: tuple[str, ...], findings: Findings) -> None:
    """Once for all of them: the lock cannot see what a tag names tomorrow."""
    if images and findings.form == "json":
        findings.out.write(json.dumps({"class": "image", "unpinned": images}) + "\n")
    elif images:
        names = ", ".join(f"`{image}`" for image in images)
        findings.out.write(f"warning: without a digest an image may change unseen: {names}\n")
