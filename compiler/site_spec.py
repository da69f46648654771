"""What a cluster file says of its site: how jobs ask for nodes there, and how our processes get onto them."""

from typing import Annotated, Literal

from pydantic import Field

from dynamoc.compiler.diagnostics import Drop, Path, Remedy, Rename, Reporter
from dynamoc.compiler.nearest import nearest
from dynamoc.compiler.sbatch_options import OF_THE_PLAN, OPTIONS, SWITCHES, WITH_FIELD
from dynamoc.compiler.written import Part, Text

Line = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
Option = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
Folder = Annotated[str, Field(pattern=r"^(/|~/)[^\x00-\x1f\x7f]*$")]
ExtraLine = Annotated[str, Field(pattern=r"^--[a-z][a-z0-9-]*(=[^\x00-\x1f\x7f]+)?$")]
Mount = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f:,]+:/[^\x00-\x1f\x7f:,]*(:(ro|rw))?$")]


class SiteSpec(Part):
    """What a scheduler of this site must be told; a recipe never holds it."""

    partition: Line | None = Field(default=None, description="Partition of jobs.")
    account: Line | None = Field(default=None, description="Account that is charged.")
    qos: Line | None = Field(default=None, description="Quality of service.")
    reservation: Line | None = Field(default=None, description="Reservation.")
    segment: Literal["required", "preferred", "off"] | None = Field(
        default=None,
        description="Nodes of a job in one NVLink domain: a job without is refused, is taken as well, or is not asked.",
    )
    directives: dict[Option, bool | int | Line] | None = Field(
        default=None, description="Directives the site needs, or refuses: `exclusive: false`, `constraint: nvl72`."
    )
    extra: list[ExtraLine] | None = Field(
        default=None, description="Further directives, as they are: `--some-plugin=value`."
    )
    mpi: Line | None = Field(default=None, description="How srun starts MPI ranks; pmix if left out.")
    interface: Line | None = Field(default=None, description="Network interface that processes bind, eth0.")
    runtime: Literal["path", "image", "archive"] | None = Field(
        default=None,
        description="Where nodes have dynamoc from: the environment of `python`, the image, or an archive in the job.",
    )
    python: Line | None = Field(
        default=None, description="Interpreter on the nodes, or in the image; that of the submitter if left out."
    )
    engine_pythons: dict[Literal["vllm", "sglang", "trtllm"], Line] | None = Field(
        default=None,
        description="Interpreters on the nodes that have an engine, where it is not in the environment of `python`.",
    )
    wheels: Folder | None = Field(
        default=None, description="Folder of wheels that go into the archive, for what the interpreter lacks."
    )
    scratch: Folder | None = Field(
        default=None, description="Local folder of nodes where the archive is unpacked; TMPDIR or /tmp if left out."
    )
    container: Literal["pyxis", "apptainer", "podman", "docker", "none"] | None = Field(
        default=None, description="What runs containers."
    )
    image: Line | None = Field(default=None, description="Image of nodes whose components name none.")
    image_cache: Folder | None = Field(
        default=None, description="Shared folder of imported images; ~/.cache/dynamoc/images if left out."
    )
    mounts: list[Mount] | None = Field(default=None, description="Mounts of every container, source:target[:ro].")
    aiperf: Folder | None = Field(
        default=None,
        description="The program AIPerf on the node that makes a load; ~/.cache/dynamoc/aiperf/bin/aiperf if left out.",
    )
    images: dict[Text, Line] | None = Field(
        default=None, description="Images by the names that recipes use: other names, or files."
    )
    models: dict[Text, Folder] | None = Field(
        default=None, description="Model folders by what recipes have as `ref` or `path` of a model."
    )


def check_site(site: SiteSpec, report: Reporter) -> None:
    """Directives that are ours or nobody's, and fields that would change nothing."""
    for option in site.directives or ():
        _check_option(option, ("site", "directives", option), report)
    for index, line in enumerate(site.extra or ()):
        option = line.removeprefix("--").partition("=")[0]
        if option in OF_THE_PLAN or option in WITH_FIELD:
            _not_the_sites(option, ("site", "extra", index), report)
    if site.wheels is not None and site.runtime != "archive":
        _no_effect("wheels", "wheels go into an archive, and `runtime` is not `archive`", report)
    if site.scratch is not None and site.runtime != "archive":
        _no_effect("scratch", "nothing is unpacked, as `runtime` is not `archive`", report)
    if site.runtime == "image" and site.container in (None, "none"):
        _no_effect("runtime", "this site runs no containers, so there is no image", report)


def _check_option(option: str, at: Path, report: Reporter) -> None:
    if option in OF_THE_PLAN or option in WITH_FIELD:
        _not_the_sites(option, at, report)
    elif option not in OPTIONS | SWITCHES:
        near = nearest(option, sorted(OPTIONS | SWITCHES))
        remedies = [Remedy((Rename(at, near),))] if near else [Remedy((Drop(at),))]
        helps = [f"write `--{option}` under `extra` if this site's sbatch has it"]
        message = f"`{option}` is not an option of sbatch"
        report.error("D113", message, (at, ""), at_key=True, helps=helps, remedies=remedies)


def _not_the_sites(option: str, at: Path, report: Reporter) -> None:
    field = f"it has a field of its own: `site.{option}`" if option in WITH_FIELD else "the plan says what it is"
    report.error("D113", f"`{option}` is not the site's to set", (at, field), remedies=[Remedy((Drop(at),))])


def _no_effect(name: str, reason: str, report: Reporter) -> None:
    at: Path = ("site", name)
    report.error("D116", f"`{name}` has no effect", (at, reason), remedies=[Remedy((Drop(at),))])
