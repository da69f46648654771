"""What the paths of one host were measured to deliver, and the file in which that is kept for the next start."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

VERSION = 1


class Place(StrEnum):
    """Where blocks are."""

    DEVICE = "device"
    PEER = "peer"
    """Another GPU of the host."""
    HOST = "host"
    DISK = "disk"
    REMOTE = "remote"
    """Host memory of a process that is reached by a transport."""


class Way(StrEnum):
    """What moves them."""

    MEMCPY = "memcpy"
    BATCH = "batch"
    """The driver's batch of copies: copy engines, nothing of the device's processors."""
    KERNEL = "kernel"
    """The scatter-gather kernel, over the link."""
    STAGED = "staged"
    """The kernel within the device, the copy engine over the link."""
    SHM = "shm"
    TCP = "tcp"
    NIXL = "nixl"
    FILE = "file"


class Sample(msgspec.Struct, frozen=True):
    """`way` moved shuffled runs of `run_bytes` from `source` to `target` at this speed: the median of `n`."""

    source: Place
    target: Place
    way: Way
    run_bytes: int
    bytes_per_s: float
    n: int


class Missing(msgspec.Struct, frozen=True):
    """A way that this host does not have, and why."""

    source: Place
    target: Place
    way: Way
    reason: str


class Measured(msgspec.Struct, frozen=True):
    """Everything that was found out. `host` names the hardware and software it is true of."""

    host: str
    facts: dict[str, str]
    samples: tuple[Sample, ...]
    missing: tuple[Missing, ...] = ()
    version: int = VERSION

    def ways(self, source: Place, target: Place) -> list[Way]:
        """Those that were measured between two places."""
        return list(dict.fromkeys(s.way for s in self.samples if (s.source, s.target) == (source, target)))

    def bytes_per_s(self, source: Place, target: Place, way: Way, run_bytes: float) -> float:
        """Speed with runs of this length: between two measurements by the logarithm, beyond them as `_speed` says."""
        found = [s for s in self.samples if (s.source, s.target, s.way) == (source, target, way)]
        return _speed(sorted((s.run_bytes, s.bytes_per_s) for s in found), run_bytes)


def _speed(points: Sequence[tuple[int, float]], run_bytes: float) -> float:
    """Runs shorter than any measured one cost what that one did, each; longer ones are no faster."""
    if not points:
        raise KeyError("this way was not measured")
    shortest, longest = points[0], points[-1]
    if run_bytes <= shortest[0]:
        return shortest[1] * run_bytes / shortest[0]
    if run_bytes >= longest[0]:
        return longest[1]
    high = next(index for index, point in enumerate(points) if point[0] >= run_bytes)
    (left, slow), (right, fast) = points[high - 1], points[high]
    share = math.log(run_bytes / left) / math.log(right / left)
    return float(slow * (fast / slow) ** share)


def cache_file(folder: Path, host: str) -> Path:
    """Where the measurements of a host are kept."""
    return folder / f"kv-paths-{host}.json"


def load(folder: Path, host: str) -> Measured | None:
    """What was kept; None if nothing, or nothing that is true of this host and this version."""
    try:
        kept = msgspec.json.decode(cache_file(folder, host).read_bytes(), type=Measured)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept if (kept.host, kept.version) == (host, VERSION) else None


def save(folder: Path, measured: Measured) -> Path:
    """Keep it, in one piece. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = cache_file(folder, measured.host)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(measured)) + b"\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def cache_folder() -> Path:
    """Of this user."""
    return Path("~/.cache/dynamoc").expanduser()
