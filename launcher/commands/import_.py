"""`dynamoc import RECIPE`: recipes of other systems as specs of ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import EXIT_WRONG

if TYPE_CHECKING:
    from dynamoc.compiler.importers.recipe import Imported


@click.command(name="import")
@click.argument("recipe", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for spec.yaml and cluster.yaml; without it the spec is printed.",
)
@click.option("--points", is_flag=True, help="Write every point of a grid, one folder each, instead of the first.")
@click.option(
    "--verdicts",
    type=click.Path(dir_okay=False, path_type=Path),
    help="RECIPE is a folder: prove every recipe and point below it, and write one line of JSON each.",
)
@click.option(
    "--table", type=click.Path(dir_okay=False, path_type=Path), help="With `--verdicts`: also a page for people."
)
def command(recipe: Path, output: Path | None, points: bool, verdicts: Path | None, table: Path | None) -> None:
    """Import RECIPE: srt-slurm, DynamoGraphDeployment, TensorRT-LLM, aiconfigurator or InferenceX."""
    if verdicts is not None:
        _judge(recipe, verdicts, table)
        return
    if table is not None:
        raise click.UsageError("`--table` goes with `--verdicts`")
    if recipe.is_dir():
        raise click.UsageError(f"{recipe} is a folder; `--verdicts OUT.jsonl` proves what is in it")
    if points and output is None:
        raise click.UsageError("`--points` needs a folder to write to: `-o DIR`")
    imported = _read(recipe)
    if output is None:
        _print(imported)
    else:
        _write(imported if points else imported[:1], output)
    _account(imported[0])
    if len(imported) > 1 and not points:
        click.echo(f"note: this is the first of {len(imported)} points; `--points -o DIR` writes them all", err=True)


def _read(recipe: Path) -> list[Imported]:
    from dynamoc.compiler.importers.recipe import RecipeError
    from dynamoc.compiler.importers.registry import read_recipe

    try:
        return list(read_recipe(recipe.read_bytes().decode("utf-8", "replace")))
    except RecipeError as error:
        click.echo(f"error: {recipe}: {error}", err=True)
        sys.exit(EXIT_WRONG)
    except OSError as error:
        raise click.UsageError(f"{recipe} cannot be read: {error.strerror}") from error


def _print(imported: Sequence[Imported]) -> None:
    from dynamoc.compiler.importers.writing import to_text

    click.echo(to_text(imported[0].spec), nl=False)


def _write(imported: Sequence[Imported], output: Path) -> None:
    from pathlib import PurePosixPath

    from dynamoc.compiler.artifacts import Artifact, write
    from dynamoc.compiler.importers.recipe import name_of
    from dynamoc.compiler.importers.writing import to_text

    artifacts = []
    for number, point in enumerate(imported):
        folder = PurePosixPath(f"{number:04d}-{name_of(point.point)}" if len(imported) > 1 else "")
        artifacts += [Artifact(folder / "spec.yaml", to_text(point.spec))]
        artifacts += [Artifact(folder / "cluster.yaml", to_text(point.cluster))]
    try:
        write(tuple(artifacts), output)
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from error
    for artifact in artifacts:
        click.echo(output / artifact.path)


def _account(imported: Imported) -> None:
    """What of the recipe is not in the spec, and why."""
    for note in imported.notes:
        click.echo(f"note: {note}", err=True)
    for path, reason in imported.ignored.items():
        click.echo(f"left out: {path}: {reason}", err=True)
    for path in imported.unmapped:
        click.echo(f"not mapped: {path}", err=True)


def _judge(folder: Path, out: Path, table: Path | None) -> None:
    from pathlib import PurePosixPath

    from dynamoc.compiler.artifacts import Artifact, write
    from dynamoc.launcher.verdict_table import to_table
    from dynamoc.launcher.verdicts import bugs, judge_folder, summary, to_lines

    if not folder.is_dir():
        raise click.UsageError(f"{folder} is not a folder")
    verdicts = list(judge_folder(folder))
    texts = {out: "".join(to_lines(verdicts))} | ({} if table is None else {table: to_table(verdicts)})
    for path, text in texts.items():
        try:
            write((Artifact(PurePosixPath(path.name), text),), path.parent)
        except OSError as error:
            raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(summary(verdicts))
    if found := bugs(verdicts):
        raise RuntimeError(f"{found} of the files met a bug of dynamoc; their lines say which")
