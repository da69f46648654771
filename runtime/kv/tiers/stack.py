"""The tiers of one worker, put together as the plan declares them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from dynamoc.runtime.kv.tiers.device import Device
from dynamoc.runtime.kv.tiers.disk import Disk
from dynamoc.runtime.kv.tiers.frames import Staging
from dynamoc.runtime.kv.tiers.host import Host
from dynamoc.runtime.kv.tiers.lift import Tier
from dynamoc.runtime.kv.tiers.offload import Offloader
from dynamoc.runtime.kv.tiers.onboard import Onboarder
from dynamoc.runtime.kv.tiers.page import PageFormat
from dynamoc.runtime.kv.tiers.rate import Endurance
from dynamoc.runtime.kv.tiers.store import Store
from dynamoc.runtime.kv.tiers.tally import Level, Tally, TierReport
from dynamoc.runtime.manifest import CacheSettings
from dynamoc.runtime.plane.messages import KvEvent

STAGING_BATCHES = 16
LEAST_BUFFERS = 2
REFRESH_S = 30.0
CLOSE_S = 5.0


class TierStack:
    """Everything below the device. `changed` is called from any thread when there is news to take.

    `on_read` gets the device blocks that a copy has finished reading. OSError or ValueError if a tier cannot be used.
    """

    def __init__(
        self,
        device: Device,
        cache: CacheSettings,
        on_read: Callable[[list[int]], None],
        changed: Callable[[], None],
        *,
        daily_write_bytes: int | None = None,
        staging_buffers: int | None = None,
    ) -> None:
        frame = device.format.frame_bytes
        self._device = device
        self.tally = Tally()
        self.host = Host(cache.host_bytes, device) if cache.host_bytes else None
        self.stores = _stores(cache, device.format, Endurance(daily_write_bytes))
        buffers = staging_buffers or max(LEAST_BUFFERS, STAGING_BATCHES * device.batch_bytes // frame)
        self.staging = Staging(buffers, frame, device.pin)
        self.offloader = Offloader(device, self.host, self.stores, self.staging, self.tally, cache.admission, on_read)
        self.onboarder = Onboarder(device, self.host, self.stores, self.staging, self.tally)
        self._tiers: list[Tier] = [*([self.host] if self.host is not None else []), *self.stores]
        for tier in self._tiers:
            if not tier.ledger.capacity:
                raise ValueError(f"tier {tier.name} is too small for a single page: one takes {frame} bytes")
            tier.lane.after_job = changed
        self._stop = threading.Event()
        self._refreshing = threading.Thread(target=self._refresh, name="kv-refresh", daemon=True)
        self._refreshing.start()

    def events(self) -> list[KvEvent]:
        """What was stored and removed since the last call, tier by tier."""
        return [event for tier in self._tiers for event in tier.ledger.take_events()]

    def resident(self) -> list[KvEvent]:
        """Every page as stored events, parents first; after a restart, those that were found again too."""
        return [event for tier in self._tiers for event in tier.ledger.resident()]

    def report(self) -> TierReport:
        """What happened since the last call."""
        report = self.tally.take(tuple(Level(t.name, len(t.ledger), t.ledger.capacity, t.is_up) for t in self._tiers))
        report.ways = self._device.ways_taken()
        return report

    def idle(self) -> bool:
        """Whether no copy waits or runs."""
        return not any(tier.lane.in_flight for tier in self._tiers)

    def check_integrity(self) -> None:
        """AssertionError if a tier's books contradict themselves."""
        for tier in self._tiers:
            tier.ledger.check_integrity()

    def close(self) -> None:
        """Finish the copies under way, within `CLOSE_S` per tier."""
        self._stop.set()
        self.onboarder.close()
        for tier in self._tiers:
            tier.close(CLOSE_S)
        self.staging.close()

    def _refresh(self) -> None:
        """Ask the stores for what others put there, now and every so often."""
        while True:
            for store in self.stores:
                store.refresh()
            if self._stop.wait(REFRESH_S):
                return


def _stores(cache: CacheSettings, format_: PageFormat, endurance: Endurance) -> Sequence[Store]:
    """Disk before objects: the faster first. OSError or ValueError if one cannot be used."""
    stores: list[Store] = []
    if cache.disk is not None:
        stores.append(Disk(Path(cache.disk.path).expanduser(), cache.disk.bytes, format_, endurance))
    if cache.object is not None:
        # The object store's client is imported only where one is declared.
        from dynamoc.runtime.kv.tiers.objects import Objects

        stores.append(Objects(cache.object.url, cache.object.bytes, format_))
    return stores
