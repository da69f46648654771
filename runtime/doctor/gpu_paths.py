"""GPUs of this host: between device and page-locked host memory by every way, and into the memory of another GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.doctor.timing import (
    POISON,
    RUN_BYTES,
    check_arrived,
    layout_of,
    random_pool,
    rows,
    sample,
    shuffled,
)
from dynamoc.runtime.kv.cuda.batch import SourceOrder, copy_batch, why_no_batches
from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.cuda.device import (
    DISABLE_TIMING,
    NON_BLOCKING,
    DeviceError,
    checked,
    on_device,
    require_devices,
    runtime,
    wait_for,
)
from dynamoc.runtime.kv.cuda.pool import DevicePool, PinnedPool
from dynamoc.runtime.kv.cuda.staged import StagedCopier
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.measured import Missing, Place, Sample, Way

MORE = 8
"""Times as much as of host memory: a GPU moves it sooner."""
DEADLINE_S = 20.0
HOST_CTAS = 32
OVER_PCIE = ((Place.DEVICE, Place.HOST), (Place.HOST, Place.DEVICE))
_BY_ADDRESS = 4
Bytes = NDArray[np.uint8]


def measure_gpus(total: int) -> Iterator[Sample | Missing]:
    """The ways of the first GPU, and into the second if there is one."""
    yield from measure_links(total)
    count, reason = _devices()
    if count < 2:
        yield Missing(Place.DEVICE, Place.PEER, Way.KERNEL, reason or "there is one GPU")
        return
    for run_bytes in RUN_BYTES:
        yield _to_peer(run_bytes, total * MORE)


def measure_links(total: int) -> Iterator[Sample | Missing]:
    """The ways between the first GPU and host memory."""
    count, reason = _devices()
    for ends in OVER_PCIE if not count else ():
        yield from (Missing(*ends, way, reason) for way in (Way.BATCH, Way.KERNEL, Way.STAGED, Way.MEMCPY))
    for run_bytes in RUN_BYTES if count else ():
        yield from _over_pcie(run_bytes, total * MORE)


def _devices() -> tuple[int, str]:
    """How many GPUs this process sees, and why none."""
    try:
        count = require_devices()
    except DeviceError as error:
        return 0, str(error)
    return count, "" if count else "this process sees no GPU"


class _Paths:
    """What copies between the first GPU and the host."""

    def __init__(self) -> None:
        self._kernel, self._staged = Copier(0, HOST_CTAS), StagedCopier(0)
        with checked("make a stream"):
            self._stream: int = runtime.streamCreateWithFlags(NON_BLOCKING)
            self._event: int = runtime.eventCreateWithFlags(DISABLE_TIMING)

    def kernel(self, source: Runs, target: Runs, size: int) -> None:
        """The kernel, over the link."""
        self._kernel.copy(source, target, size).wait(DEADLINE_S)

    def offload(self, source: Runs, target: Runs, size: int) -> None:
        """Staged, to the host."""
        self._staged.offload(source, target, size).wait(DEADLINE_S)

    def onboard(self, source: Runs, target: Runs, size: int) -> None:
        """Staged, from the host."""
        self._staged.onboard(source, target, size).wait(DEADLINE_S)

    def batch(self, source: Runs, target: Runs, size: int) -> None:
        """The driver's batch."""
        from_, to = (np.uint64(side.base) + side.indices * np.uint64(side.stride) for side in (source, target))
        copy_batch(0, to, from_, np.full(to.size, size, np.uint64), self._stream, SourceOrder.STREAM)
        with on_device(0, "wait for a batch"):
            runtime.eventRecord(self._event, self._stream)
            wait_for(self._event, DEADLINE_S)

    def memcpy(self, source: Runs, target: Runs, size: int) -> None:
        """One call of the runtime a run."""
        with on_device(0, "copy run by run"):
            for from_, to in zip(source.indices.tolist(), target.indices.tolist(), strict=True):
                ends = (target.base + to * target.stride, source.base + from_ * source.stride)
                runtime.memcpyAsync(*ends, size, _BY_ADDRESS, self._stream)
            runtime.eventRecord(self._event, self._stream)
            wait_for(self._event, DEADLINE_S)

    def close(self) -> None:
        """Release what was made."""
        self._kernel.close()
        self._staged.close()
        with checked("release a stream"):
            runtime.eventDestroy(self._event)
            runtime.streamDestroy(self._stream)


def _over_pcie(run_bytes: int, total: int) -> Iterator[Sample | Missing]:
    host = random_pool(run_bytes, total)
    with contextlib.ExitStack() as owned:
        owned.callback(host.close)
        device = owned.enter_context(contextlib.closing(DevicePool(layout_of(run_bytes), host.blocks, 0)))
        pinned = owned.enter_context(contextlib.closing(PinnedPool(host)))
        paths = owned.enter_context(contextlib.closing(_Paths()))
        yield from _by_every_way(host, {Place.DEVICE: device.address, Place.HOST: pinned.address}, paths)


def _by_every_way(host: HostPool, addresses: Mapping[Place, int], paths: _Paths) -> Iterator[Sample | Missing]:
    run_bytes, sent = host.layout.block_bytes, rows(host).copy()
    sources, destinations = shuffled(host.blocks)
    for source, target in OVER_PCIE:
        from_ = Runs(addresses[source], run_bytes, sources.astype(np.uint64))
        to = Runs(addresses[target], run_bytes, destinations.astype(np.uint64))
        staged = paths.offload if target is Place.HOST else paths.onboard
        ways = {Way.KERNEL: paths.kernel, Way.STAGED: staged, Way.BATCH: paths.batch, Way.MEMCPY: paths.memcpy}
        for way, copy in ways.items():
            if way is Way.BATCH and (absent := why_no_batches()):
                yield Missing(source, target, way, absent)
                continue
            _write(from_, sent)
            _write(to, np.full_like(sent, POISON))
            between = (source, target, way)
            yield sample(between, run_bytes, sent.size, _once(copy, from_, to, run_bytes))
            check_arrived(between, _read(to, sent)[destinations], sent[sources])


def _to_peer(run_bytes: int, total: int) -> Sample:
    between = (Place.DEVICE, Place.PEER, Way.KERNEL)
    mine, theirs = (DevicePool(layout_of(run_bytes), total // run_bytes, device) for device in (0, 1))
    with checked("reach the second GPU"):
        if not runtime.deviceCanAccessPeer(0, 1):
            raise DeviceError("GPU 0 cannot reach GPU 1")
    copier = Copier(0)
    with on_device(0, "reach the second GPU"):
        runtime.deviceEnablePeerAccess(1)
    sources, destinations = shuffled(mine.blocks)
    from_ = Runs(mine.address, run_bytes, sources.astype(np.uint64))
    to = Runs(theirs.address, run_bytes, destinations.astype(np.uint64))
    sent = rows(random_pool(run_bytes, total)).copy()
    _write(from_, sent)
    _write(to, np.full_like(sent, POISON))
    found = sample(between, run_bytes, total, lambda: copier.copy(from_, to, run_bytes).wait(DEADLINE_S))
    check_arrived(between, _read(to, sent)[destinations], sent[sources])
    with on_device(0, "let go of the second GPU"):
        runtime.deviceDisablePeerAccess(1)
    for owned in (copier, mine, theirs):
        owned.close()
    return found


def _once(copy: Callable[[Runs, Runs, int], None], source: Runs, target: Runs, size: int) -> Callable[[], None]:
    return lambda: copy(source, target, size)


def _write(to: Runs, data: Bytes) -> None:
    """All blocks of a pool, wherever it is."""
    with checked("fill a pool"):
        runtime.memcpy(to.base, data.ctypes.data, data.size, _BY_ADDRESS)


def _read(from_: Runs, like: Bytes) -> Bytes:
    data = np.empty_like(like)
    with checked("read a pool"):
        runtime.memcpy(data.ctypes.data, from_.base, data.size, _BY_ADDRESS)
    return data
