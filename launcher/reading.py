"""From files to the compiler: specs, clusters and model texts are read here, and diagnostics are shown here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

import dynamoc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynamoc.compiler.cluster import Cluster
    from dynamoc.compiler.diagnostics import Diagnostic
    from dynamoc.compiler.models import ModelLibrary
    from dynamoc.compiler.source import Source

EXIT_WRONG = 1
CARDS = Path(dynamoc.__file__).parent / "specs/models"
PROVENANCE = "provenance.json"

SPEC = click.argument("spec", type=click.Path(exists=True, dir_okay=False, path_type=Path))
CLUSTER = click.option(
    "--cluster",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Inventory to prove the spec against; this machine if left out.",
)
FORMAT = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", help="How findings are printed."
)

PLUGINS_OFF = "PYDANTIC_DISABLE_PLUGINS"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a compilation depends on."""

    source: Source
    cluster: Cluster
    models: ModelLibrary


@dataclass(slots=True)
class Findings:
    """Shows diagnostics under the text they speak of; knows every file that was read."""

    form: str = "text"
    out: TextIO = field(default_factory=lambda: sys.stderr)
    texts: dict[str, str] = field(default_factory=dict)

    def show(self, diagnostics: Sequence[Diagnostic]) -> None:
        """Print them, in colour on a terminal."""
        from dynamoc.compiler.render import render_json, render_text

        if self.form == "json":
            self.out.write(render_json(diagnostics))
        else:
            color = self.out.isatty() and "NO_COLOR" not in os.environ
            self.out.write(render_text(diagnostics, self.texts, color))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Print what a compilation finds wrong, and exit 1."""
        from dynamoc.compiler.diagnostics import CompileError

        try:
            yield
        except CompileError as error:
            self.show(error.diagnostics)
            sys.exit(EXIT_WRONG)


def read_inputs(spec: Path, cluster: Path | None, findings: Findings) -> Inputs:
    """Read a spec, its inventory and what is known of its model; CompileError."""
    from dynamoc.compiler.cluster_spec import ClusterSpec, read_cluster
    from dynamoc.compiler.spec import Spec
    from dynamoc.launcher.inventory import local_cluster

    with _without_plugins():
        for shape in (Spec,) if cluster is None else (Spec, ClusterSpec):
            shape.model_rebuild()
    source = read_file(spec, findings)
    source = _with_traces(source, spec.parent)
    inventory = local_cluster() if cluster is None else read_cluster(read_file(cluster, findings))
    return Inputs(source, inventory, model_library(source, inventory.model_root, inventory.site.get("models", {})))


def _with_traces(source: Source, folder: Path) -> Source:
    """With what is known of the trace of its load, which is found beside the spec."""
    load = source.data.get("load") if isinstance(source.data, dict) else None
    trace = load.get("trace") if isinstance(load, dict) else None
    if not isinstance(trace, str):
        return source
    import msgspec

    from dynamoc.launcher.load.trace_facts import facts_of

    return msgspec.structs.replace(source, traces={trace: facts_of(folder / Path(trace).expanduser())})


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Build shapes as they are, whatever is installed that would hook into them: even looking for it takes its time."""
    before = os.environ.get(PLUGINS_OFF)
    os.environ[PLUGINS_OFF] = "__all__"
    try:
        yield
    finally:
        os.environ.pop(PLUGINS_OFF)
        os.environ |= {} if before is None else {PLUGINS_OFF: before}


def read_file(path: Path, findings: Findings) -> Source:
    """Parse a YAML file; CompileError, or a usage error when it cannot be read."""
    from dynamoc.compiler.source import read_source

    try:
        content = path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error
    findings.texts[str(path)] = content.decode("utf-8", "replace")
    return read_source(content, str(path))


def model_library(source: Source, model_root: str, folders: Mapping[str, str] | None = None) -> ModelLibrary:
    """The config.json of the spec's model where it is on this machine, else our card of it, else nothing.

    `folders` are those of the site, by the names that recipes use.
    """
    from dynamoc.compiler.models import ModelLibrary, like_of
    from dynamoc.compiler.site_models import folder_of

    model: Any = source.data.get("model")
    model = model if isinstance(model, dict) else {}
    path, ref = model.get("path"), model.get("ref")
    texts: dict[str, str | None] = {}
    provenance: dict[str, str | None] = {}
    folder = folder_of(folders or {}, *(name if isinstance(name, str) else None for name in (path, ref)))
    if folder is not None:
        for name in {folder, path} if isinstance(path, str) else {folder}:
            texts[name] = _text_of(Path(folder).expanduser() / "config.json")
            provenance[name] = _text_of(Path(folder).expanduser() / PROVENANCE)
    if isinstance(ref, str):
        root = Path(os.environ.get("DYNAMOC_MODEL_ROOT", model_root))
        texts[ref] = texts.get(folder or "") or _text_of_ref(ref, root)
        provenance[ref] = _text_below(root, ref, PROVENANCE)
        if (like := like_of(texts[ref] or "")) is not None:
            texts[like] = _text_of_ref(like, root)
    return ModelLibrary(_known(texts), _known(provenance))


def _known(texts: Mapping[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text is not None}


def _text_below(model_root: Path, ref: str, file: str) -> str | None:
    """What stands in a file of the folder of a model; names that lead elsewhere have none."""
    parts = Path(ref).parts
    if Path(ref).is_absolute() or ".." in parts or not parts:
        return None
    return _text_of(model_root.expanduser() / ref / file)


def _text_of_ref(ref: str, model_root: Path) -> str | None:
    """The config.json under the model root, else our card; a name without its owner is enough for that."""
    config = _text_below(model_root, ref, "config.json")
    parts = Path(ref).parts
    if config is not None or Path(ref).is_absolute() or ".." in parts or not parts:
        return config
    card = CARDS / f"{'--'.join(parts)}.yaml"
    if card.is_file():
        return card.read_text()
    wanted = f"--{ref}.yaml".lower()
    alike = [one for one in CARDS.iterdir() if len(parts) == 1 and one.name.lower().endswith(wanted)]
    return alike[0].read_text() if len(alike) == 1 else None


def _text_of(path: Path) -> str | None:
    """What stands in a file, None if there is none; bytes that are not UTF-8 are left to the reader to refuse."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error
