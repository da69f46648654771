"""`dynamoc diff A B`: what two pipelines do not share, in meaning and not in spelling."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.commands.compile import BESIDE, read_lock_file
from dynamoc.launcher.reading import CLUSTER, EXIT_WRONG, FORMAT, Findings, read_inputs

if TYPE_CHECKING:
    from dynamoc.compiler.lock import Lock

SIDE = click.Path(exists=True, path_type=Path)


@click.command(name="diff")
@click.argument("a", type=SIDE)
@click.argument("b", type=SIDE)
@CLUSTER
@FORMAT
def command(a: Path, b: Path, cluster: Path | None, form: str) -> None:
    """Compare A and B: specs, compiled folders or locks. Exit 0: they mean the same; 1: they do not."""
    from dynamoc.compiler.drift import difference
    from dynamoc.launcher.differences import difference_json, difference_text

    findings = Findings(form)
    with findings.shown():
        one, other = (_lock(side, cluster, findings) for side in (a, b))
    found = difference(one, other)
    sys.stdout.write((difference_json if form == "json" else difference_text)(found))
    sys.exit(EXIT_WRONG if found else 0)


def _lock(side: Path, cluster: Path | None, findings: Findings) -> Lock:
    """The lock of a folder or a file; that of a spec is made here."""
    if side.is_dir():
        return read_lock_file(side / BESIDE)
    try:
        if re.search(rb"^format:", side.read_bytes(), re.MULTILINE):  # no field of a spec
            return read_lock_file(side)
    except OSError as error:
        raise click.UsageError(f"{side} cannot be read: {error.strerror}") from error
    from dynamoc.compiler.lock import lock_in
    from dynamoc.compiler.pipeline import compile_spec
    from dynamoc.compiler.target import load_target

    inputs = read_inputs(side, cluster, findings)
    return lock_in(compile_spec(inputs.source, inputs.cluster, load_target("local"), inputs.models))
