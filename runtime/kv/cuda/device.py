"""The few calls of the CUDA runtime that the KV path makes, with its errors in our words."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

_missing: ImportError | None = None
try:
    from cupy.cuda import runtime as _runtime
except ImportError as error:  # the package is there only where GPUs are
    _runtime, _missing = None, error

runtime: Any = _runtime
"""The CUDA runtime's calls, as cupy spells them."""
SPIN_S = 0.005
PAUSE_S = 0.00005
"""A wait looks without pause as long as a usual transfer takes, then every `PAUSE_S`."""
NON_BLOCKING = 1
"""Of a stream: it waits for no other."""
DISABLE_TIMING = 2
"""Of an event."""
_NOT_READY = 600


class DeviceError(RuntimeError):
    """A device is missing, or a call to it failed; the message says which."""


def require_devices() -> int:
    """How many GPUs this process sees; DeviceError if none, or if the package that speaks to them is missing."""
    if _missing is not None:
        raise DeviceError(f"GPU memory needs cupy (`pip install dynamoc[cuda13]` or `[cuda12]`): {_missing}")
    with checked("count devices"):
        count: int = runtime.getDeviceCount()
    return count


def bus_address(device: int) -> str:
    """Where a GPU sits on this host, whatever number a process knows it by."""
    with checked(f"find GPU {device}"):
        found: str = runtime.deviceGetPCIBusId(device)
    return found


@contextlib.contextmanager
def checked(what: str) -> Iterator[None]:
    """Name what failed."""
    try:
        yield
    except runtime.CUDARuntimeError as error:
        raise DeviceError(f"cannot {what}: {error}") from error


@contextlib.contextmanager
def on_device(device: int, what: str) -> Iterator[None]:
    """Make `device` the current one of this thread; a CUDA error inside says what failed."""
    with checked(what):
        before = runtime.getDevice()
        runtime.setDevice(device)
        try:
            yield
        finally:
            runtime.setDevice(before)


def has_passed(event: int) -> bool:
    """Whether everything before `event` is done; DeviceError if the device failed."""
    status = runtime.eventQuery(event)
    if status not in (0, _NOT_READY):
        raise DeviceError(f"the device failed while it worked: {runtime.CUDARuntimeError(status)}")
    return bool(status != _NOT_READY)


def wait_for(event: int, deadline_s: float) -> None:
    """Until everything before `event` is done; TimeoutError past the deadline, DeviceError if the device failed."""
    started = time.monotonic()
    while not has_passed(event):
        waited = time.monotonic() - started
        if waited > deadline_s:
            raise TimeoutError(f"the device did not finish within {deadline_s:.3f} s")
        if waited < SPIN_S:
            os.sched_yield()  # sleep(0) costs the 50 µs of a timer's slack
        else:
            time.sleep(PAUSE_S)
