"""One write over NVLink: batches of runs, of which a few are under way on the device at any time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dynamoc.runtime.kv.cuda.copier import SLOT_RUNS, Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import Span
from dynamoc.runtime.kv.transfer.walk import Walk
from dynamoc.runtime.transports.nvlink_peer import NvlinkPeer
from dynamoc.runtime.transports.transfer import ThreadedTransfer

BATCH_BYTES = 256 << 20
"""Copied between two looks at deadline, cancellation and peer; what is started on a device runs to its end."""
AHEAD = 1
"""Batches started while another runs, so that the device never waits for this thread."""
REMIND_S = 10.0

log = logging.getLogger("dynamoc.transports.nvlink")


@dataclass(frozen=True, slots=True)
class Push:
    """Copies the bytes `span` of each pair's block, `after` an event of the device if there is one."""

    transfer: ThreadedTransfer
    copier: Copier
    pool: DevicePool
    peer: NvlinkPeer
    span: Span
    way: Walk | None
    """Into blocks that are not like mine: what of them is written."""
    after: int | None

    def __call__(self) -> int:
        """Bytes moved. Returns or raises only when the device writes nothing of it any more."""
        under_way: deque[tuple[slice, Copy]] = deque()
        try:
            if self.after is not None:
                self.copier.after(self.after)
            for part in self._batches():
                self._check()
                under_way.append((part, self._start(part)))
                if len(under_way) > AHEAD:
                    self._finish(under_way)
            while under_way:
                self._finish(under_way)
        finally:
            for _, copy in under_way:
                _quiesce(copy)
        return len(self.transfer.pairs) * self._size

    @property
    def _size(self) -> int:
        """Bytes a pair."""
        return self.span.size if self.way is None else self.way.size

    def _check(self) -> None:
        self.transfer.check()
        self.peer.check()

    def _batches(self) -> Iterator[slice]:
        count, step = len(self.transfer.pairs), min(SLOT_RUNS, max(1, BATCH_BYTES // self._size))
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def _start(self, part: slice) -> Copy:
        pairs, stride = self.transfer.pairs, self.pool.layout.block_bytes
        source = Runs(self.pool.address, stride, pairs.sources[part].astype(np.uint64))
        target = Runs(self.peer.address, stride, pairs.destinations[part].astype(np.uint64))
        if self.way is not None:
            target = target._replace(stride=self.way.target_stride)
            return self.copier.copy_slices(self.way, source, target, sums=True, deadline_s=self._remaining_s())
        source, target = (side._replace(base=side.base + self.span.start) for side in (source, target))
        return self.copier.copy(source, target, self.span.size, sums=True, deadline_s=self._remaining_s())

    def _finish(self, under_way: deque[tuple[slice, Copy]]) -> None:
        """Wait for the oldest batch and keep its sums."""
        part, copy = under_way[0]
        try:
            copy.wait(self._remaining_s())
        except TimeoutError:
            self.transfer.check()  # says it in the words of the deadline
            raise
        under_way.popleft()
        assert copy.sums is not None
        self.transfer.checksums[part] = copy.sums
        self.peer.check()

    def _remaining_s(self) -> float:
        """Time left; Stopped if there is none."""
        self.transfer.check()
        return max(self.transfer.remaining_s, 0.0)


def _quiesce(copy: Copy) -> None:
    """Wait as long as it takes: until then nobody else may have the blocks, and nobody is told that they are safe."""
    while True:
        try:
            copy.wait(REMIND_S)
        except TimeoutError:
            log.critical("a push that was given up still runs on GPU after %g s", REMIND_S)
        else:
            return
