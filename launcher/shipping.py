"""The runtime as one archive that a job carries: this package, and wheels for what the nodes' interpreter lacks."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import dynamoc
from dynamoc.compiler.artifacts import Artifact
from dynamoc.launcher.wheels import ShippingError, interpreter_of, wheels_in

ARCHIVE = PurePosixPath("emitted/runtime.tar.gz")
DIGEST = PurePosixPath("emitted/runtime.sha256")
EXECUTABLE, READABLE = 0o755, 0o644
IMPORTED = ("purelib", "platlib")
"""Folders of a wheel's data that are imported from; scripts and headers are not."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """The bytes of the archive; equal files give equal bytes."""

    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def locked(self) -> dict[str, str]:
        """What a lock holds of it."""
        return {str(ARCHIVE): f"sha256:{self.digest}"}

    @property
    def artifact(self) -> Artifact:
        """What a job checks it by."""
        return Artifact(DIGEST, f"{self.digest}  {ARCHIVE.name}\n")

    def write(self, folder: Path) -> Path:
        """Put it beside the artifacts in `folder`, in one atomic step."""
        path = folder / ARCHIVE
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_bytes(self.content)
        draft.replace(path)
        return path


def shipment_for(site: Mapping[str, Any]) -> Shipment | None:
    """What jobs of a site carry, None where its nodes have the runtime; ShippingError."""
    if site.get("runtime") != "archive":
        return None
    folder = site.get("wheels")
    return pack(() if folder is None else wheels_in(Path(folder).expanduser(), interpreter_of(site)))


def pack(wheels: Sequence[Path]) -> Shipment:
    """This package and some wheels, as one tree to import from; ShippingError."""
    files: dict[str, tuple[bytes, int]] = {}
    for name, content, mode in (*_own_files(), *_wheel_files(wheels)):
        if files.setdefault(name, (content, mode))[0] != content:
            raise ShippingError(
                f"`{name}` is in two of the packages that the archive would hold, with different content"
            )
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return Shipment(buffer.getvalue())


def _own_files() -> Iterator[tuple[str, bytes, int]]:
    """In a checkout the parts of the package are links."""
    root = Path(dynamoc.__file__).parent
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in names:
            path = Path(folder) / name
            yield f"dynamoc/{path.relative_to(root).as_posix()}", path.read_bytes(), READABLE


def _wheel_files(wheels: Sequence[Path]) -> Iterator[tuple[str, bytes, int]]:
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for info in archive.infolist():
                    name = _installed_name(info.filename, wheel)
                    if name is not None and not info.is_dir():
                        mode = EXECUTABLE if info.external_attr >> 16 & 0o100 else READABLE
                        yield name, archive.read(info), mode
        except (zipfile.BadZipFile, OSError) as error:
            raise ShippingError(f"{wheel} cannot be read: {error}") from error


def _installed_name(name: str, wheel: Path) -> str | None:
    """Where an installer would put it, seen from the folder that is imported from; None for what is not imported."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ShippingError(f"{wheel} holds `{name}`, which would lie outside")
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if len(parts) > 2 and parts[1] in IMPORTED else None
    return "/".join(parts)
