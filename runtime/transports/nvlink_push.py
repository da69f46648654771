"""One write over NVLink: batches of runs, started one by one as the line has room for them."""

from __future__ import annotations

import logging
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from dynamoc.runtime.kv.cuda.copier import SLOT_RUNS, Copier, Copy, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError, has_passed
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import Span
from dynamoc.runtime.kv.transfer.walk import Walk
from dynamoc.runtime.transports.nvlink_peer import NvlinkPeer
from dynamoc.runtime.transports.transfer import Stopped, ThreadedTransfer

BATCH_BYTES = 1 << 30
"""Copied between two looks at deadline, cancellation and peer; what is started on a device runs to its end."""
FIRST_RUNS = 8192
"""Of many runs, so many go first: the device moves them while the tables of the rest are made."""
REMIND_S = 10.0

log = logging.getLogger("dynamoc.transports.nvlink")


@dataclass(slots=True, eq=False)
class Push:
    """Copies the bytes `span` of each pair's block, `after` an event of the device if there is one.

    One that fails or is given up starts no further batch, and is over when the device is done with those it has: until
    then nobody else may have the blocks, and nobody is told that they are safe.
    """

    transfer: ThreadedTransfer
    copier: Copier
    pool: DevicePool
    peer: NvlinkPeer
    span: Span
    way: Walk | None
    """Into blocks that are not like mine: what of them is written."""
    after: int | None
    sums: bool = True
    _next: int = 0
    _started: deque[Copy] = field(default_factory=deque)
    _failure: Exception | None = None
    _waits: bool = field(init=False)
    """Whether `after` has not been seen to pass."""
    _remind_at: float = 0.0
    _is_mapped: bool = False
    """Whether memory for the sums was touched: the system clears it while the device works, not when it is done."""

    def __post_init__(self) -> None:
        self._waits = self.after is not None

    @property
    def under_way(self) -> int:
        """Batches on the device."""
        return len(self._started)

    @property
    def waits(self) -> bool:
        """Whether `after` has yet to pass."""
        self._see_source()
        return self._waits

    def start(self) -> bool:
        """Start the next batch."""
        count = len(self.transfer.pairs)
        if self._failure is not None or self._next >= count:
            return False
        step = self._step if self._next else min(self._step, FIRST_RUNS)
        part = slice(self._next, min(self._next + step, count))
        try:
            self.transfer.check()
            self.peer.check()
            if self.after is not None and not self._next:
                self.copier.after(self.after)
            self._started.append(self._copy(part))
        except Exception as error:  # noqa: BLE001  (whoever waits gets it)
            self._failure = error
            return False
        self._next = part.stop
        return True

    def look(self) -> bool:
        """Let go of batches that are done, their sums kept, and see whether the rest is still wanted."""
        if not self._is_mapped:
            self._is_mapped = True
            self.transfer.checksums.fill(0)
        before = (self._waits, self._failure, self.under_way)
        self._see_whether_wanted()
        self._see_source()
        try:
            while self._started and self._started[0].is_done():
                self._started.popleft()
        except DeviceError as error:  # such a device writes nothing any more
            self._failure = self._failure or error
            self._started.clear()
        return before != (self._waits, self._failure, self.under_way)

    def end(self, future: Future[int]) -> None:
        """How many bytes were moved, or why not all."""
        try:
            if self._failure is None:
                self.peer.check()
        except Stopped as ended:
            self._failure = ended
        if self._failure is None:
            future.set_result(len(self.transfer.pairs) * self._size)
        else:
            future.set_exception(self._failure)

    # ---- inside ---------------------------------------------------------------------------------------------

    @property
    def _size(self) -> int:
        """Bytes a pair."""
        return self.span.size if self.way is None else self.way.size

    @property
    def _step(self) -> int:
        """Pairs a batch."""
        return min(SLOT_RUNS, max(1, BATCH_BYTES // self._size))

    def _copy(self, part: slice) -> Copy:
        pairs, stride, into = self.transfer.pairs, self.pool.layout.block_bytes, self.transfer.checksums[part]
        source = Runs(self.pool.address, stride, pairs.sources[part].view(np.uint64))
        target = Runs(self.peer.address, stride, pairs.destinations[part].view(np.uint64))
        remaining_s = max(self.transfer.remaining_s, 0.0)
        if self.way is not None:
            target = target._replace(stride=self.way.target_stride)
            return self.copier.copy_slices(self.way, source, target, sums=self.sums, into=into, deadline_s=remaining_s)
        source, target = (side._replace(base=side.base + self.span.start) for side in (source, target))
        return self.copier.copy(source, target, self.span.size, sums=self.sums, into=into, deadline_s=remaining_s)

    def _see_source(self) -> None:
        """Note when `after` has passed; that a device failed is seen by what was started after it."""
        if self._waits and self.after is not None:
            try:
                if not has_passed(self.after):
                    return
            except DeviceError:
                pass
            self._waits, self.transfer.ready_at = False, time.monotonic()

    def _see_whether_wanted(self) -> None:
        """Past the deadline, or cancelled: begin nothing more. Say so if the device does not end what it has."""
        now = time.monotonic()
        if self._failure is None:
            try:
                self.transfer.check()
            except Stopped as why:
                self._failure, self._remind_at = why, now + REMIND_S
        elif self._started and now > self._remind_at > 0:
            log.critical("a push that was given up still runs on GPU %d after %g s", self.pool.device, REMIND_S)
            self._remind_at = now + REMIND_S
