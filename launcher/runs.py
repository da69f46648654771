"""Run folders: one per start of a plan, the same tree on every target."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dynamoc.compiler.array_plan import FILE as ARRAY
from dynamoc.compiler.array_plan import ArrayPlan
from dynamoc.compiler.artifacts import Artifact, Artifacts, write
from dynamoc.runtime.agent.record import RunStatus, node_file, read_status
from dynamoc.runtime.manifest import Manifest, ManifestError, decode_manifest, read_manifest

KEY_BYTES = 32
PLAN = "plan.json"


class RunFolderError(Exception):
    """There is no such run, or its folder cannot be made or read; the message is for the user."""


def create_run(runs_dir: Path, artifacts: Artifacts, *, with_key: bool = True) -> Path:
    """A new folder `<name>-<utc>-<id>` with the artifacts; `latest` points at it. A job brings a key of its own."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = next(filter(None, map(_name_in, artifacts)))
    folder = runs_dir.resolve() / f"{name}-{stamp}-{secrets.token_hex(3)}"
    make_run(folder, artifacts, with_key=with_key)
    try:
        _point(runs_dir.resolve() / "latest", folder.name)
    except OSError as error:
        raise RunFolderError(f"cannot make the run folder {folder}: {error}") from error
    return folder


def _name_in(artifact: Artifact) -> str | None:
    if str(artifact.path) == ARRAY:
        return msgspec.json.decode(artifact.text, type=ArrayPlan).name
    return decode_manifest(artifact.text).name if str(artifact.path) == PLAN else None


def make_run(folder: Path, artifacts: Artifacts, *, with_key: bool) -> None:
    """A run folder of a given name, which nothing else may have: it is there with everything in it, or not at all."""
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(3)}")
    try:
        draft.mkdir(parents=True)
        write(artifacts, draft)
        if with_key:
            _write_key(draft / "key")
        draft.rename(folder)
    except OSError as error:
        raise RunFolderError(f"cannot make the run folder {folder}: {error}") from error


def _write_key(path: Path) -> None:
    """What the processes of the run prove to each other; never readable by others, not even for a moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))


def _point(link: Path, target: str) -> None:
    draft = link.with_name(f".latest.{secrets.token_hex(3)}")
    draft.symlink_to(target)
    draft.replace(link)


def find_run(runs_dir: Path, run: str | None) -> Path:
    """The folder of a run: a path, a name below `runs_dir` or the only one that starts so; `latest` by default."""
    for folder in (runs_dir / (run or "latest"), Path(run or "")):
        if _is_run(folder):
            return folder.resolve()
    found = sorted(path for path in runs_dir.glob(f"{glob.escape(run or '')}*") if _is_run(path))
    if run and len(found) == 1:
        return found[0].resolve()
    if run and found:
        raise RunFolderError(f"`{run}` may be any of {', '.join(f.name for f in found)}")
    raise RunFolderError(
        f"no run `{run}` in {runs_dir}" if run else f"no run in {runs_dir}; start one with `dynamoc up`"
    )


def _is_run(folder: Path) -> bool:
    return (folder / PLAN).is_file() or (folder / ARRAY).is_file()


def manifest_of(folder: Path) -> Manifest:
    """The plan of a run."""
    if (folder / ARRAY).is_file():
        raise RunFolderError(f"{folder} is an array; the run of a point is {folder}/points/POINT/run")
    try:
        return read_manifest(folder / "plan.json")
    except (OSError, ManifestError) as error:
        raise RunFolderError(f"{folder / 'plan.json'}: {error}") from error


def statuses_of(folder: Path, manifest: Manifest) -> dict[int, RunStatus]:
    """What each node's agent wrote last; nodes that wrote nothing yet are left out."""
    nodes = sorted({process.node for process in manifest.processes})
    try:
        found = ((node, read_status(folder, node)) for node in nodes)
        return {node: status for node, status in found if status is not None}
    except (OSError, msgspec.MsgspecError) as error:
        raise RunFolderError(f"unreadable status in {folder}: {error}") from error


def has_agent(folder: Path, node: int) -> bool:
    """Whether the node's agent lives: it holds a lock for as long."""
    try:
        with node_file(folder, "agent.lock", node).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
