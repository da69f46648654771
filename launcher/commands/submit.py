"""`dynamoc submit`: compile a spec for Slurm and submit it, once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import CLUSTER, Findings, read_inputs

if TYPE_CHECKING:
    from rich.console import Console

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
    """Submit WHAT: a spec, a folder that `compile --target slurm` wrote, or a run folder (never a second time).

    The folder of a campaign is as many runs as it has arrays.
    """
    from rich.console import Console

    from dynamoc.launcher.load.point import LoadError
    from dynamoc.launcher.runs import RunFolderError
    from dynamoc.launcher.slurm.receipts import ReceiptsError
    from dynamoc.launcher.slurm.tools import SlurmError

    if (questions or retries) and _holds_array(what):
        raise click.UsageError("`--ask` and `--retry` go with a single job; tasks of an array make their loads")
    console = Console(highlight=False, soft_wrap=True)
    folders: list[Path] = []
    try:
        for folder in _run_folders(what, cluster, runs_dir, serve=serve):
            folders.append(folder)
            console.print(f"run folder: {folder}", markup=False)
            _submit(folder, questions, max_tokens, retries, console)
        sys.exit(max(_follow(folder, console) for folder in folders) if follow else 0)
    except (RunFolderError, ReceiptsError, SlurmError, LoadError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        left = [f"the job goes on; `dynamoc cancel {folder}` ends it" for folder in folders]
        console.print("\n" + ("\n".join(left) or "nothing was submitted"), markup=False)
        sys.exit(STOPPED_FOLLOWING)


def _holds_array(what: Path) -> bool:
    from dynamoc.launcher.slurm.arrays import array_of
    from dynamoc.launcher.slurm.submitted import jobs_in

    return what.is_dir() and any(array_of(job) is not None for job in jobs_in(what))


def _submit(folder: Path, questions: tuple[str, ...], max_tokens: int, retries: int, console: Console) -> None:
    """The job of a run folder, once."""
    from dynamoc.launcher.slurm.receipts import Receipts
    from dynamoc.launcher.slurm.submission import job_of, submit, write_questions

    if (questions or retries) and job_of(folder) is not None:
        raise click.UsageError(f"{folder} was submitted already; `--ask` and `--retry` go with a new run")
    if questions:
        write_questions(folder, questions, max_tokens)
    job = submit(folder, retries)
    for receipt in Receipts(folder).read():
        if receipt.what == "without":
            console.print(f"without {receipt.comment}: {receipt.reason}", markup=False)
    console.print(f"job: {job}")


def _follow(folder: Path, console: Console) -> int:
    from dynamoc.launcher.slurm.arrays import array_of, follow_array
    from dynamoc.launcher.slurm.following import follow
    from dynamoc.launcher.slurm.submission import job_of

    job, array = job_of(folder), array_of(folder)
    assert job is not None, "it was submitted"
    return follow(folder, job, console) if array is None else follow_array(folder, job, array, console)


def _run_folders(what: Path, cluster: Path | None, runs_dir: Path, *, serve: bool) -> Iterator[Path]:
    """A run folder as it is; for a spec or compiled folders, new ones, without their load if they are only to serve."""
    from dynamoc.compiler.load_plan import FILE
    from dynamoc.launcher.runs import create_run
    from dynamoc.launcher.slurm.submitted import jobs_in, read_job

    if (what / "receipts.jsonl").is_file():
        if cluster is not None or serve:
            raise click.UsageError("`--cluster` and `--serve` go with a new run; this one has its own")
        yield what.resolve()
        return
    if what.is_file():
        made = [_compiled(what, cluster)]
    elif cluster is not None:
        raise click.UsageError("`--cluster` goes with a spec; this folder was compiled for one")
    else:
        made = [read_job(job) for job in jobs_in(what)]
    if not made:
        raise click.UsageError(f"{what} has no job to submit: `dynamoc compile SPEC --target slurm -o {what}`")
    for artifacts, shipments in made:
        kept = tuple(artifact for artifact in artifacts if not (serve and artifact.path.name == FILE))
        folder = create_run(runs_dir, kept, with_key=False)
        for place, shipment in shipments.items():
            shipment.write(folder / place)
        yield folder


def _compiled(spec: Path, cluster: Path | None) -> tuple[Artifacts, Mapping[PurePosixPath, Shipment]]:
    from dynamoc.compiler.pipeline import build_plan, emit
    from dynamoc.compiler.target import load_target
    from dynamoc.launcher.commands.compile import is_campaign, packed

    target = load_target("slurm")
    findings = Findings()
    with findings.shown():
        if is_campaign(spec, findings):
            raise click.UsageError(
                f"{spec} is a campaign: `dynamoc sweep` runs it, `dynamoc compile` makes arrays of it"
            )
        if cluster is None:
            raise click.UsageError(
                "a spec is proved against the nodes it will run on: `--cluster FILE`; "
                "`dynamoc inventory --from slurm -o FILE` writes one"
            )
        inputs = read_inputs(spec, cluster, findings)
        plan, warnings = build_plan(inputs.source, inputs.cluster, inputs.models, target)
    findings.show(warnings)
    shipment = packed(inputs.cluster.site, target.name)
    if shipment is None:
        return emit(inputs.source, plan, target, inputs.models), {}
    artifacts = emit(inputs.source, plan, target, inputs.models, shipment.locked)
    return (*artifacts, shipment.artifact), {PurePosixPath(): shipment}
