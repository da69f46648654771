"""Compiled folders as they are submitted: of one job, of an array, or of a campaign with several of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dynamoc.compiler.array_plan import FILE
from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.launcher.runs import PLAN
from dynamoc.launcher.shipping import ARCHIVE, Shipment
from dynamoc.launcher.slurm.submission import SCRIPT


def jobs_in(folder: Path) -> tuple[Path, ...]:
    """The folder itself if it is one job or one array, else those of its folders that are."""
    if _is_job(folder):
        return (folder,)
    return tuple(path for path in sorted(folder.iterdir()) if _is_job(path))


def _is_job(folder: Path) -> bool:
    return (folder / SCRIPT).is_file() and any((folder / name).is_file() for name in (PLAN, FILE))


def read_job(folder: Path) -> tuple[Artifacts, Mapping[PurePosixPath, Shipment]]:
    """What `compile` wrote, and the archives that its jobs carry, by the folder of the job."""
    if (folder / FILE).is_file():
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    else:
        files = sorted(path for path in (*folder.iterdir(), *(folder / SCRIPT).parent.iterdir()) if path.is_file())
    names = {path: PurePosixPath(path.relative_to(folder)) for path in files if not path.name.startswith(".")}
    archives = {path: name for path, name in names.items() if name.parts[-2:] == ARCHIVE.parts}
    artifacts = tuple(
        Artifact(name, path.read_text(), path.stat().st_mode & 0o777)
        for path, name in names.items()
        if path not in archives
    )
    return artifacts, {name.parents[1]: Shipment(path.read_bytes()) for path, name in archives.items()}
