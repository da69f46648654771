"""`dynamoc submit`: compile a spec for Slurm and submit it, once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import CLUSTER, Findings, read_inputs

if TYPE_CHECKING:
    from dynamoc.compiler.artifacts import Artifacts
    from dynamoc.launcher.shipping import Shipment

STOPPED_FOLLOWING = 130


@click.command()
@click.argument("what", type=click.Path(exists=True, path_type=Path))
@CLUSTER
@click.option("--follow", is_flag=True, help="Show how it goes until the job is over; Ctrl-C only stops looking.")
@click.option("--ask", "questions", multiple=True, metavar="TEXT", help="The job asks itself this, and ends.")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1), help="Length of an answer.")
@click.option(
    "--retry",
    "retries",
    default=0,
    show_default=True,
    type=click.IntRange(0, 100),
    metavar="N",
    help="At most N jobs go on after one that was cut short, by its limit, preemption or a lost node.",
)
@click.option("--serve", is_flag=True, help="Make no load even if the spec has one: serve until cancelled.")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(path_type=Path), help="For run folders.")
def command(
    what: Path,
    cluster: Path | None,
    follow: bool,
    questions: tuple[str, ...],
    max_tokens: int,
    retries: int,
    serve: bool,
    runs_dir: Path,
) -> None:
    """Submit WHAT: a spec, a folder that `compile --target slurm` wrote, or a run folder (never a second time)."""
    from rich.console import Console

    from dynamoc.launcher.load.point import LoadError
    from dynamoc.launcher.runs import RunFolderError
    from dynamoc.launcher.slurm.following import follow as follow_job
    from dynamoc.launcher.slurm.receipts import Receipts, ReceiptsError
    from dynamoc.launcher.slurm.submission import job_of, submit, write_questions
    from dynamoc.launcher.slurm.tools import SlurmError

    console = Console(highlight=False, soft_wrap=True)
    folder: Path | None = None
    try:
        folder = _run_folder(what, cluster, runs_dir, serve=serve)
        console.print(f"run folder: {folder}", markup=False)
        if (questions or retries) and job_of(folder) is not None:
            raise click.UsageError(f"{folder} was submitted already; `--ask` and `--retry` go with a new run")
        if questions:
            write_questions(folder, questions, max_tokens)
        job = submit(folder, retries)
        for receipt in Receipts(folder).read():
            if receipt.what == "without":
                console.print(f"without {receipt.comment}: {receipt.reason}", markup=False)
        console.print(f"job: {job}")
        sys.exit(follow_job(folder, job, console) if follow else 0)
    except (RunFolderError, ReceiptsError, SlurmError, LoadError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        goes_on = f"the job goes on; `dynamoc cancel {folder}` ends it"
        console.print("\n" + (goes_on if folder is not None else "nothing was submitted"), markup=False)
        sys.exit(STOPPED_FOLLOWING)


def _run_folder(what: Path, cluster: Path | None, runs_dir: Path, *, serve: bool) -> Path:
    """A run folder as it is; for a spec or a compiled folder, a new one, without its load if it is only to serve."""
    from dynamoc.compiler.load_plan import FILE
    from dynamoc.launcher.runs import create_run

    if (what / "receipts.jsonl").is_file():
        if cluster is not None or serve:
            raise click.UsageError("`--cluster` and `--serve` go with a new run; this one has its own")
        return what.resolve()
    artifacts, shipment = _compiled(what, cluster) if what.is_file() else _artifacts_in(what, cluster)
    if serve:
        artifacts = tuple(artifact for artifact in artifacts if str(artifact.path) != FILE)
    folder = create_run(runs_dir, artifacts, with_key=False)
    if shipment is not None:
        shipment.write(folder)
    return folder


def _compiled(spec: Path, cluster: Path | None) -> tuple[Artifacts, Shipment | None]:
    from dynamoc.compiler.pipeline import build_plan, emit
    from dynamoc.compiler.target import load_target
    from dynamoc.launcher.commands.compile import packed

    if cluster is None:
        raise click.UsageError(
            "a spec is proved against the nodes it will run on: `--cluster FILE`; "
            "`dynamoc inventory --from slurm -o FILE` writes one"
        )
    target = load_target("slurm")
    findings = Findings()
    with findings.shown():
        inputs = read_inputs(spec, cluster, findings)
        plan, warnings = build_plan(inputs.source, inputs.cluster, inputs.models, target)
    findings.show(warnings)
    shipment = packed(inputs.cluster.site, target.name)
    if shipment is None:
        return emit(inputs.source, plan, target, inputs.models), None
    return (*emit(inputs.source, plan, target, inputs.models, shipment.locked), shipment.artifact), shipment


def _artifacts_in(folder: Path, cluster: Path | None) -> tuple[Artifacts, Shipment | None]:
    """What `compile` wrote there."""
    from pathlib import PurePosixPath

    from dynamoc.compiler.artifacts import Artifact
    from dynamoc.launcher.shipping import ARCHIVE, shipment_in
    from dynamoc.launcher.slurm.submission import SCRIPT

    if cluster is not None:
        raise click.UsageError("`--cluster` goes with a spec; this folder was compiled for one")
    for needed in (SCRIPT, "plan.json"):
        if not (folder / needed).is_file():
            raise click.UsageError(f"{folder} has no {needed}: `dynamoc compile SPEC --target slurm -o {folder}`")
    files = sorted(path for path in (*folder.iterdir(), *(folder / SCRIPT).parent.iterdir()) if path.is_file())
    names = {path: PurePosixPath(path.relative_to(folder)) for path in files if not path.name.startswith(".")}
    texts = {path: name for path, name in names.items() if name != ARCHIVE}
    artifacts = tuple(Artifact(name, path.read_text(), path.stat().st_mode & 0o777) for path, name in texts.items())
    return artifacts, shipment_in(folder)
