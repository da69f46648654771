"""Which image the processes of a node run in, and where the image comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dynamoc.compiler.plan import Plan, Process

CACHE = "~/.cache/dynamoc/images"
SUFFIX: Mapping[str, str] = {"pyxis": "sqsh", "apptainer": "sif"}
_DIGEST = re.compile(r"@sha256:([0-9a-f]{64})$")
_REGISTRY = re.compile(r"^(localhost|[^/]*[.:][^/]*)/")


class Image(msgspec.Struct, frozen=True):
    """An image as one file that every node sees. `source` is what it is imported from, None where it is there."""

    file: str
    source: str | None = None


def runtime_of(site: Mapping[str, Any]) -> str:
    """What runs containers at a site: `none` where nothing does."""
    return str(site.get("container", "none"))


def named_images(plan: Plan, node: int) -> dict[str, list[Process]]:
    """The processes of a node by the image that their component names; the others are not there."""
    found: dict[str, list[Process]] = {}
    for process in plan.processes:
        if process.node == node and process.component.image is not None:
            found.setdefault(process.component.image, []).append(process)
    return found


def image_name(plan: Plan, node: int) -> str | None:
    """The image of a node: that of its components, else that of the site, else the only one there is."""
    everywhere = {process.component.image for process in plan.processes} - {None}
    for named in (set(named_images(plan, node)), {plan.cluster.site.get("image")} - {None}, everywhere):
        if named:
            return str(named.pop()) if len(named) == 1 else None
    return None


def images(plan: Plan, names: Sequence[str]) -> tuple[Image, ...]:
    """Where the files of images are, and how they get there."""
    site = plan.cluster.site
    aliases: Mapping[str, str] = site.get("images", {})
    return tuple(_image(aliases.get(name, name), runtime_of(site), site.get("image_cache", CACHE)) for name in names)


def _image(where: str, runtime: str, cache: str) -> Image:
    suffix = SUFFIX[runtime]
    if where.startswith(("/", "~/", "./")):
        return Image(where)
    reference = where.removeprefix("docker://").replace("#", "/")
    pinned = _DIGEST.search(reference)
    name = pinned[1] if pinned else re.sub(r"[^A-Za-z0-9._-]", "+", reference)
    source = _for_enroot(reference) if runtime == "pyxis" else _for_apptainer(reference)
    return Image(f"{cache.rstrip('/')}/{name}.{suffix}", source)


def _for_enroot(reference: str) -> str:
    """A registry ends with `#`. A digest stands where a tag would: there every version of enroot takes it."""
    pinned = _DIGEST.search(reference)
    if pinned:
        reference = f"{_untagged(reference[: pinned.start()])}:sha256:{pinned[1]}"
    return "docker://" + _REGISTRY.sub(r"\1#", reference)


def _for_apptainer(reference: str) -> str:
    """A digest excludes a tag."""
    pinned = _DIGEST.search(reference)
    return "docker://" + (f"{_untagged(reference[: pinned.start()])}{pinned[0]}" if pinned else reference)


def _untagged(reference: str) -> str:
    """A name without its tag; a colon before a slash is the port of a registry."""
    folder, slash, name = reference.rpartition("/")
    return folder + slash + name.partition(":")[0]
