"""What a target writes: a list of texts, and the one place of the compiler with an effect."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

Artifacts = tuple["Artifact", ...]


class Artifact(msgspec.Struct, frozen=True):
    """One file to be."""

    path: PurePosixPath
    text: str
    mode: int = 0o644


def write(artifacts: Artifacts, folder: Path) -> None:
    """Write all artifacts under `folder`, each in one atomic step; other files there are left alone."""
    for artifact in artifacts:
        path = folder / artifact.path
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(artifact.text)
        draft.chmod(artifact.mode)
        draft.replace(path)


def differences(artifacts: Artifacts, folder: Path) -> tuple[str, ...]:
    """Paths whose file under `folder` is missing or holds other text."""
    return tuple(
        str(a.path) for a in artifacts if not (folder / a.path).is_file() or (folder / a.path).read_text() != a.text
    )
