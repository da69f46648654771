"""Down the tiers: blocks that are worth it are copied while they are still on the device (selective write-through)."""

from __future__ import annotations

import functools
import logging
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dynamoc.runtime.kv.tiers.device import Device
from dynamoc.runtime.kv.tiers.frames import Staging, StagingTimeoutError
from dynamoc.runtime.kv.tiers.host import Host
from dynamoc.runtime.kv.tiers.lane import Job, Lane
from dynamoc.runtime.kv.tiers.ledger import Entry, Skip
from dynamoc.runtime.kv.tiers.page import ALIGN, PageKey, header_of, page_of, seal
from dynamoc.runtime.kv.tiers.sketch import FrequencySketch
from dynamoc.runtime.kv.tiers.store import Failure, Frame, Store
from dynamoc.runtime.kv.tiers.tally import Path, Tally

SECOND_TOUCH = 2
STAGING_WAIT_S = 30.0

TO_HOST = Path("copy", "G1", "G2", "offload")

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Page = tuple[PageKey, int]
"""A block on the device, and what it is called off it."""


def spill_path(store: Store, source: str, *, bounced: bool = False) -> Path:
    """How pages reach a store: from the memory they are in, or from the device by a detour over a staging buffer."""
    via = {"G3": "file", "G4": "object"}[store.name]
    return Path(f"bounce+{via}" if bounced else via, source, store.name, "offload")


@dataclass(slots=True)
class _Move:
    """One block on its way: to a frame in host memory if there is one, and to stores."""

    key: PageKey
    block: int
    host: Entry | None
    stores: dict[str, Entry] = field(default_factory=dict)


class Offloader:
    """Copies blocks down. `on_read` is called, from any thread, with blocks that nothing here reads any more.

    Places are taken when a prefix is offered, in order, parents first; they are filled in any order.
    """

    def __init__(
        self,
        device: Device,
        host: Host | None,
        stores: Sequence[Store],
        staging: Staging,
        tally: Tally,
        admission: str,
        on_read: Callable[[list[int]], None],
    ) -> None:
        self._device = device
        self._host = host
        self._stores = stores
        self._staging = staging
        self._tally = tally
        self._on_read = on_read
        self._frequent_only = admission == "frequent"
        self._batch = max(1, round(device.batch_bytes / device.format.frame_bytes))
        capacity = sum(min(tier.ledger.capacity, 1 << 20) for tier in (host, *stores) if tier is not None)
        self._sketch = FrequencySketch(max(capacity, 64))

    def touch(self, keys: Sequence[PageKey]) -> None:
        """A prefix was used: count it, and keep it longer."""
        for key in keys:
            self._sketch.add(key.name)
        for tier in (self._host, *self._stores):
            if tier is not None:
                tier.ledger.touch(keys)

    def offer(self, pages: Sequence[Page]) -> list[int]:
        """Copy what is worth it of a prefix, parents first; the blocks that stay in use until `on_read`."""
        into_host: list[_Move] = []
        from_host: list[_Move] = []
        from_device: list[_Move] = []
        for key, block in pages:
            move = _Move(key, block, self._begin_in_host(key))
            pinned = self._host.ledger.pin([key.name]) if self._host is not None and move.host is None else []
            if self._host is None or move.host is not None or pinned or self._host.ledger.wants(key.name):
                move.stores = self._begin_in_stores(key)
            if move.host is not None:
                into_host.append(move)
            elif pinned and move.stores:
                move.host = pinned[0]
                from_host.append(move)
            elif move.stores:
                from_device.append(move)
            if pinned and self._host is not None and not move.stores:
                self._host.ledger.unpin(pinned)
        return self._start(into_host, from_host, from_device)

    def _start(self, into_host: list[_Move], from_host: list[_Move], from_device: list[_Move]) -> list[int]:
        taken: list[int] = []
        host = self._host
        if host is not None:
            taken += self._line_up(into_host, host.lane, functools.partial(self._to_host, host))
            for batch in self._batches(from_host):
                self._spill(host, batch)
        if from_device:
            taken += self._line_up(from_device, self._stores[0].lane, self._to_stores)
        return taken

    def _line_up(self, moves: list[_Move], lane: Lane, copy: Callable[[Sequence[_Move]], None]) -> list[int]:
        """Blocks of the batches that were taken. After the first refusal none is: its pages would have no parents."""
        taken: list[int] = []
        for batch in self._batches(moves):
            if not self._submit(lane, batch, functools.partial(copy, batch)):
                rest = moves[len(taken) :]
                self._abort_stores(rest[len(batch) :])
                if self._host is not None:
                    self._abort_host(self._host, rest)
                break
            taken.extend(move.block for move in batch)
        return taken

    # ---- the copies ---------------------------------------------------------------------------------------

    def _to_host(self, host: Host, batch: Sequence[_Move]) -> None:
        entries = [move.host for move in batch if move.host is not None]
        try:
            with self._tally.copying(TO_HOST) as arrived:
                self._gather(batch, [host.frame(entry) for entry in entries])
                arrived.extend([self._device.format.page_bytes] * len(batch))
        except Exception:
            self._abort_host(host, batch)
            self._abort_stores(batch)
            raise
        finally:
            self._on_read([move.block for move in batch])
        for entry in entries:
            host.ledger.commit(entry)
        self._spill(host, [move for move in batch if self._is_pinned(host, move)])

    def _spill(self, host: Host, batch: Sequence[_Move]) -> None:
        """Write pages that are pinned in host memory to their stores; each store has a pin of its own."""
        for store in self._stores:
            moves = [move for move in batch if store.name in move.stores]
            if not moves:
                continue
            entries = [entry for move in moves for entry in host.ledger.pin([move.key.name])]
            if not self._submit(store.lane, moves, functools.partial(self._from_host, host, store, moves), store):
                host.ledger.unpin(entries)
        host.ledger.unpin(move.host for move in batch if move.host is not None)

    def _from_host(self, host: Host, store: Store, moves: Sequence[_Move]) -> None:
        entries = [move.host for move in moves if move.host is not None]
        try:
            self._write(store, spill_path(store, host.name), moves, [(host.frame(entry),) for entry in entries])
        finally:
            host.ledger.unpin(entries)

    def _to_stores(self, batch: Sequence[_Move]) -> None:
        """From the device: from its own memory if it lends that, or else over staging buffers."""
        pages = [page for move in batch if (page := self._device.lend(move.block)) is not None]
        if len(pages) == len(batch):
            self._write_lent(batch, pages)
        else:
            self._bounce(batch)

    def _write_lent(self, batch: Sequence[_Move], pages: Sequence[memoryview]) -> None:
        """Nothing is copied but what the stores write; the blocks stay in use until every store is done with them."""
        rest = batch
        try:
            headers = memoryview(mmap.mmap(-1, len(batch) * ALIGN))
            frames: list[Frame] = []
            for number, (move, page) in enumerate(zip(batch, pages, strict=True)):
                header = headers[number * ALIGN : (number + 1) * ALIGN]
                header[:] = header_of(self._device.format, move.key, page)
                frames.append((header, page))
            rest = []
            self._write_each(batch, frames, bounced=False)
        finally:
            self._abort_stores(rest)
            self._on_read([move.block for move in batch])

    def _bounce(self, batch: Sequence[_Move]) -> None:
        """Over staging buffers, which go back when every store is done with them."""
        rest = list(batch)
        try:
            while rest:
                frames = self._staging.borrow(len(rest), STAGING_WAIT_S)
                try:
                    part = rest[: len(frames)]
                    self._gather(part, frames)
                    rest = rest[len(frames) :]
                    self._on_read([move.block for move in part])
                    self._write_each(part, [(frame,) for frame in frames], bounced=True)
                finally:
                    self._staging.give_back(frames)
        except StagingTimeoutError as error:
            log.warning("blocks were not offloaded: %s", error)
            self._tally.skipped(self._stores[0].name, Skip.BUSY, len(rest))
        finally:
            if rest:
                self._abort_stores(rest)
                self._on_read([move.block for move in rest])

    def _gather(self, batch: Sequence[_Move], frames: Sequence[memoryview]) -> None:
        format_ = self._device.format
        blocks = [move.block for move in batch]
        sums = self._device.digests(blocks) if self._device.takes_digests else [None] * len(blocks)
        self._device.read(blocks, [page_of(format_, frame) for frame in frames])
        for move, frame, digests in zip(batch, frames, sums, strict=True):
            seal(format_, move.key, frame, digests)

    def _write_each(self, batch: Sequence[_Move], frames: Sequence[Frame], *, bounced: bool) -> None:
        """To every store, what it has a place for."""
        for store in self._stores:
            pairs = [(m, f) for m, f in zip(batch, frames, strict=True) if store.name in m.stores]
            if pairs:
                path = spill_path(store, "G1", bounced=bounced)
                self._write(store, path, [move for move, _ in pairs], [frame for _, frame in pairs])

    def _write(self, store: Store, path: Path, moves: Sequence[_Move], frames: Sequence[Frame]) -> None:
        with self._tally.copying(path) as arrived:
            for result in store.write([move.stores[store.name] for move in moves], frames):
                if isinstance(result, Skip):
                    self._tally.skipped(store.name, result)
                elif isinstance(result, Failure):
                    self._tally.failed(path, result.reason)
                else:
                    arrived.append(self._device.format.page_bytes)

    # ---- places -------------------------------------------------------------------------------------------

    def _begin_in_host(self, key: PageKey) -> Entry | None:
        if self._host is None:
            return None
        entry = self._host.ledger.begin(key, self._sketch if self._frequent_only else None)
        if isinstance(entry, Skip):
            self._tally.skipped(self._host.name, entry)
            return None
        return entry

    def _begin_in_stores(self, key: PageKey) -> dict[str, Entry]:
        begun: dict[str, Entry] = {}
        for store in self._stores:
            if not store.ledger.wants(key.name):
                continue
            if self._frequent_only and self._sketch.count(key.name) < SECOND_TOUCH:
                self._tally.skipped(store.name, Skip.INFREQUENT)
                continue
            entry = store.begin(key)
            if isinstance(entry, Skip):
                self._tally.skipped(store.name, entry)
            else:
                begun[store.name] = entry
        return begun

    def _is_pinned(self, host: Host, move: _Move) -> bool:
        """Pin a page that was just filled; without it, its stores have nothing to read."""
        if host.ledger.pin([move.key.name]):
            return True
        self._tally.skipped(host.name, Skip.EVICTED)
        self._abort_stores([move])
        return False

    def _abort_host(self, host: Host, batch: Sequence[_Move]) -> None:
        for move in reversed(batch):
            if move.host is not None:
                host.ledger.abort(move.host)

    def _abort_stores(self, batch: Sequence[_Move], only: Store | None = None) -> None:
        for move in reversed(batch):
            for store in self._stores:
                if store.name in move.stores and only in (None, store):
                    store.ledger.abort(move.stores[store.name])

    def _submit(self, lane: Lane, batch: Sequence[_Move], job: Job, store: Store | None = None) -> bool:
        """Put a copy in line; if too much waits already, what it was to fill stays absent."""
        if lane.store(job):
            return True
        for name in {name for move in batch for name in move.stores} if store is None else {store.name}:
            self._tally.skipped(name, Skip.BUSY, len(batch))
        self._abort_stores(batch, store)
        return False

    def _batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        for start in range(0, len(items), self._batch):
            yield items[start : start + self._batch]
