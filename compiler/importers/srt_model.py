"""What an srt-slurm recipe serves, and from which image: names of a site are told from names of the world."""

from __future__ import annotations

import re
from typing import Any

from dynamoc.compiler.geometry import WIDTHS
from dynamoc.compiler.importers.recipe import Fields, Path, text_of, without_nothing
from dynamoc.compiler.importers.srt_fields import FRAMEWORK

HUB = "hf:"
SERVED = ("served-model-name", "served_model_name")
PRECISIONS = {name: name for name in WIDTHS} | {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_VERSION = re.compile(r"v?([0-9]+\.[0-9]+[0-9A-Za-z.+]*)")
_UNTAGGED = "0.1.dev"
"""What a build calls itself that does not know the version it is built from."""
_OWN_IMAGES = {"sglang": "lmsysorg/sglang", "vllm": "vllm/vllm-openai", "trtllm": "nvidia/tensorrt-llm/release"}
"""Images whose tag is the version of the engine itself."""


def model_of(fields: Fields, args: list[Path]) -> dict[str, Any]:
    """`ref` from what the recipe calls the model in the world's words, else the name its site knows it by."""
    where = fields.take_text("model", "path") or ""
    precision = PRECISIONS.get(text_of(fields.get("model", "precision", default="")).lower())
    if precision is not None:
        fields.take("model", "precision")
    served = _served(fields, args)
    repo = fields.take_text("identity", "model", "repo")
    ref = repo or (where.removeprefix(HUB) if where.startswith(HUB) else None)
    if ref is None:
        ref = served if served and "/" in served else where.rstrip("/").rpartition("/")[2]
    fields.notes += [f"`{where}` is a name of the site; the spec says `{ref}`"] if ref not in where else []
    model = {
        "ref": ref or None,
        "path": where if where.startswith("/") else None,
        "revision": fields.take_text("identity", "model", "revision"),
        "precision": precision,
        "served_name": served,
    }
    return without_nothing(model)


def _served(fields: Fields, args: list[Path]) -> str | None:
    """What clients call the model; the workers' flags keep it too."""
    for path in (*((*path, key) for path in args for key in SERVED), ("engine", "served_model_name")):
        name = fields.take(*path) if path[0] == "engine" else fields.get(*path)
        if name is not None:
            return text_of(name)
    return None


def image_of(fields: Fields) -> str | None:
    """The image by its public name where one is given, else as the site calls it."""
    here = fields.take_text("model", "container")
    public = fields.take_text("identity", "container", "image")
    if public is not None and public != here:
        fields.notes.append(f"the image `{public}` is called `{here}` at the site")
    name = public if public is not None else here
    return name.replace("#", "/", 1) if name else None


def version_of(fields: Fields, engine: str, image: str | None) -> str | None:
    """From the identity of the recipe, else from the tag of the engine's own image."""
    path = ("identity", "frameworks", FRAMEWORK.get(engine, engine))
    named = fields.get(*path)
    if named is not None and _VERSION.fullmatch(text_of(named)) and not text_of(named).startswith(_UNTAGGED):
        return fields.take_text(*path)
    name, _, tag = (image or "").partition("@")[0].rpartition(":")
    found = _VERSION.match(tag)
    return found[1] if found and engine in _OWN_IMAGES and name.endswith(_OWN_IMAGES[engine]) else None
