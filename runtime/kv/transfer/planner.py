"""How a copy of blocks goes: adjacent ones are joined, then the way is taken that was measured to be soonest done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.transfer.extents import extents, in_order
from dynamoc.runtime.kv.transfer.measured import Measured, Place, Way

TAKES_PROCESSORS = frozenset({Way.KERNEL, Way.STAGED})
"""Ways that take some of a device from what it computes. A kernel that stores to the host even stalls all of it."""
PIECE_BYTES = 32 << 20
"""What crosses a link at once at most, by the staged way."""
Blocks = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Work:
    """Blocks to copy, joined where they can be.

    `joined` counts pieces that are adjacent at both ends; `met`, those at the end that is not the device's.
    """

    source: Place
    target: Place
    block_bytes: int
    blocks: int
    joined: int
    met: int

    @property
    def total_bytes(self) -> int:
        """Of all blocks."""
        return self.blocks * self.block_bytes


class Option(NamedTuple):
    """One way: seconds it is predicted to take with runs of this length, or why it is not taken."""

    way: Way
    run_bytes: float
    seconds: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The way that is taken, and every other that was looked at, soonest first."""

    work: Work
    way: Way
    options: tuple[Option, ...]

    def explain(self) -> str:
        """Why, in numbers."""
        work = self.work
        size = f"{work.blocks} blocks of {work.block_bytes:,} B from {work.source} to {work.target}"
        lines = [f"{self.way}: {size}, {work.joined} pieces where both ends are adjacent, {work.met} where one is"]
        for option in self.options:
            what = f"{option.seconds * 1e3:.3f} ms" if option.seconds is not None else "not taken"
            detail = option.reason or f"runs of {option.run_bytes:,.0f} B"
            lines.append(f"  {option.way}: {what}, {detail}")
        return "\n".join(lines)


class NoWayError(LookupError):
    """Blocks cannot go from one place to the other here; the message says what was looked at."""


def work_of(source: Place, target: Place, block_bytes: int, sources: Blocks, destinations: Blocks) -> Work:
    """Of pairs of blocks; each block of the far end at most once."""
    far, near = (sources, destinations) if target is Place.DEVICE else (destinations, sources)
    order = in_order(far)
    far, near = far[order], near[order]
    apart = (np.diff(far) != 1) | (np.diff(near) != 1) if far.size else np.empty(0, np.bool_)
    joined = int(np.count_nonzero(apart)) + bool(far.size)
    return Work(source, target, block_bytes, far.size, joined, extents(far).firsts.size)


def decide(work: Work, measured: Measured, *, beside_compute: bool = False) -> Decision:
    """The soonest way; `beside_compute`: of those that leave the device's processors alone, if there are any.

    NoWayError if none was measured between the two places.
    """
    options = [_option(work, way, measured) for way in measured.ways(work.source, work.target)]
    if work.blocks and work.met == work.joined:
        options = [_useless(option) if option.way is Way.STAGED else option for option in options]
    taken = [option for option in options if option.seconds is not None]
    if beside_compute and any(option.way not in TAKES_PROCESSORS for option in taken):
        options = [_held_back(o) if o in taken and o.way in TAKES_PROCESSORS else o for o in options]
    options.sort(key=lambda option: (option.seconds is None, option.seconds or 0.0))
    absent = [m for m in measured.missing if (m.source, m.target) == (work.source, work.target)]
    options += [Option(missing.way, 0, None, missing.reason) for missing in absent]
    if not options or options[0].seconds is None:
        why = "; ".join(f"{option.way}: {option.reason}" for option in options) or "nothing was measured"
        raise NoWayError(f"no way from {work.source} to {work.target}: {why}")
    return Decision(work, options[0].way, tuple(options))


def _option(work: Work, way: Way, measured: Measured) -> Option:
    if not work.blocks:
        return Option(way, work.block_bytes, 0.0)
    run_bytes = _run_bytes(work, way)
    speed = measured.bytes_per_s(work.source, work.target, way, run_bytes)
    return Option(way, run_bytes, work.total_bytes / speed)


def _run_bytes(work: Work, way: Way) -> float:
    """How long the pieces are of which a way makes one move."""
    if way is Way.STAGED:
        return min(work.total_bytes / work.met, max(PIECE_BYTES, work.block_bytes))
    if way is Way.KERNEL:
        return work.block_bytes
    return work.total_bytes / work.joined


def _useless(option: Option) -> Option:
    return option._replace(seconds=None, reason="would cross in as many pieces as without")


def _held_back(option: Option) -> Option:
    return option._replace(seconds=None, reason="would take processors from what the device computes")
