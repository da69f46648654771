"""Which way pages go between a GPU and host memory: decided by what was measured, told once, and counted."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from dynamoc.runtime.kv.transfer.measured import Measured, Place, Way
from dynamoc.runtime.kv.transfer.planner import NoWayError, Work, decide

log = logging.getLogger(__name__)


class Ways:
    """Of one device. `unmeasured` is taken, and told, where no way was measured. Thread-safe."""

    def __init__(self, measured: Measured, unmeasured: Way) -> None:
        self._measured = measured
        self._unmeasured = unmeasured
        self._lock = threading.Lock()
        self._decided: dict[tuple[Place, Place, int, bool], Way] = {}
        self._taken: Counter[tuple[str, str]] = Counter()

    def choose(self, source: Place, target: Place, piece_bytes: int, pieces: int, *, beside_compute: bool) -> Way:
        """The way for pieces that lie apart at both ends. The first decision of each kind is logged."""
        kind = (source, target, piece_bytes, beside_compute)
        with self._lock:
            if kind not in self._decided:
                work = Work(source, target, piece_bytes, pieces, joined=pieces, met=pieces)
                self._decided[kind] = self._decide(work, beside_compute=beside_compute)
            way = self._decided[kind]
            self._taken[way, "offload" if source is Place.DEVICE else "onboard"] += 1
            return way

    def take(self) -> Counter[tuple[str, str]]:
        """Copies since the last call, by way and operation."""
        with self._lock:
            taken, self._taken = self._taken, Counter()
            return taken

    def _decide(self, work: Work, *, beside_compute: bool) -> Way:
        try:
            decision = decide(work, self._measured, beside_compute=beside_compute)
        except NoWayError as error:
            log.warning("%s: copies go by %s", error, self._unmeasured)
            return self._unmeasured
        log.info("%s%s", "beside compute, " if beside_compute else "", decision.explain())
        return decision.way
