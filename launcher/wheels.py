"""Which wheels of a folder an archive holds: of each package the one that the nodes' interpreter can use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags, sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from dynamoc.compiler.containers import runtime_of

_NAMED = re.compile(r"python([0-9]+)\.([0-9]+)")
ANY = "any"


class ShippingError(Exception):
    """A wheel that cannot be carried; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What is known of the interpreter on the nodes: the tags it takes, on their platform if that is known too."""

    name: str
    tags: frozenset[Tag]
    platform: bool

    def takes(self, tags: frozenset[Tag]) -> bool:
        """Whether it can use a wheel with these tags."""
        if self.platform:
            return not self.tags.isdisjoint(tags)
        return not self.tags.isdisjoint(Tag(tag.interpreter, tag.abi, ANY) for tag in tags)


def interpreter_of(site: Mapping[str, Any]) -> Interpreter | None:
    """That of the nodes: the submitter's where the site names none, else what its name says; None if nothing does."""
    if "python" not in site:
        own = runtime_of(site) == "none" and "PYTHON" not in os.environ
        return Interpreter("this one", frozenset(sys_tags()), platform=True) if own else None
    name = str(site["python"])
    found = _NAMED.fullmatch(Path(name).name)
    if found is None:
        return None
    version = (int(found[1]), int(found[2]))
    native = cpython_tags(version, platforms=[ANY])
    pure = compatible_tags(version, f"cp{version[0]}{version[1]}", platforms=[ANY])
    return Interpreter(name, frozenset((*native, *pure)), platform=False)


def wheels_in(folder: Path, interpreter: Interpreter | None) -> tuple[Path, ...]:
    """All of them where nothing is known of the interpreter; ShippingError where a package has none that fits."""
    packages: dict[str, list[Path]] = {}
    fitting: list[Path] = []
    for wheel in sorted(folder.glob("*.whl")):
        try:
            name, _, _, tags = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename as error:
            raise ShippingError(f"{wheel} has no name of a wheel: {error}") from error
        packages.setdefault(name, []).append(wheel)
        if interpreter is None or interpreter.takes(tags):
            fitting.append(wheel)
    if not packages:
        raise ShippingError(f"there is no wheel in {folder}, which the cluster file names")
    for package, wheels in packages.items():
        if interpreter is not None and not set(wheels) & set(fitting):
            found = ", ".join(wheel.name for wheel in wheels)
            raise ShippingError(f"no wheel of `{package}` is for the nodes' interpreter ({interpreter.name}): {found}")
    return tuple(fitting)
