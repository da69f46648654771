"""G2: frames in host memory, one mapping, shared by every copy of this process."""

from __future__ import annotations

from dynamoc.runtime.kv.tiers.device import Device
from dynamoc.runtime.kv.tiers.frames import Frames
from dynamoc.runtime.kv.tiers.lane import Lane
from dynamoc.runtime.kv.tiers.ledger import Entry, Ledger
from dynamoc.runtime.kv.tiers.rate import Rate

WAITING_STORES = 256
ASSUMED_BYTES_PER_S = 5e9


class Host:
    """`size` bytes of frames. Whoever looks at a frame has pinned its entry, or is the one that fills it."""

    name = "G2"
    latency_s = 0.0001
    least_read_bytes: int | None = 16 << 10
    is_up = True

    def __init__(self, size: int, device: Device) -> None:
        frame = device.format.frame_bytes
        self.ledger = Ledger(self.name, size // frame)
        self.lane = Lane("host", device.threads, WAITING_STORES)
        self.reading = Rate(ASSUMED_BYTES_PER_S)
        self._frames = Frames(self.ledger.capacity, frame, device.pin)

    def frame(self, entry: Entry) -> memoryview:
        """The frame of a page."""
        return self._frames.view(entry.slot)

    def close(self, timeout_s: float) -> None:
        """Finish what waits, then give the memory back."""
        if self.lane.close(timeout_s):
            self._frames.close()
