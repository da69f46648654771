"""Many copies in one call of the driver, carried out by a copy engine: `cuMemcpyBatchAsync`."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.cuda.device import DeviceError, on_device

MOST = 4096
"""Copies a call: tens of thousands have crashed drivers."""
_CUDA_13 = 13000
Table = NDArray[np.uint64]


class SourceOrder(IntEnum):
    """When a source may be read."""

    STREAM = 1
    """In its turn: what is earlier on the stream may write it."""
    ANY = 3
    """At once: nobody writes it any more."""


class _Attributes(ctypes.Structure):
    """CUmemcpyAttributes: how the source may be read, two hints of places, flags."""

    _fields_ = (("order", ctypes.c_int), ("hints", ctypes.c_int * 4), ("flags", ctypes.c_uint))


def copy_batch(device: int, destinations: Table, sources: Table, sizes: Table, stream: int, order: SourceOrder) -> None:
    """Start to copy `sizes[i]` bytes from address to address, for every i. DeviceError."""
    call = _driver_call()
    lists = [np.ascontiguousarray(part, np.uint64) for part in (destinations, sources, sizes)]
    attributes, first = _Attributes(order=order), ctypes.c_size_t(0)
    with on_device(device, "start a batch of copies"):
        for start in range(0, lists[0].size, MOST):
            parts = [part[start : start + MOST] for part in lists]
            words = (part.ctypes.data for part in parts)
            failed = call(*words, parts[0].size, ctypes.byref(attributes), ctypes.byref(first), 1, stream)
            if failed:
                raise DeviceError(f"cuMemcpyBatchAsync of {parts[0].size} copies failed: {failed}")


def why_no_batches() -> str:
    """Why this host's driver takes no batches; empty if it does."""
    try:
        _driver_call()
    except DeviceError as error:
        return str(error)
    return ""


@functools.cache
def _driver_call() -> Callable[..., int]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"no CUDA driver: {error}") from error
    found, status = ctypes.c_void_p(), ctypes.c_int()
    failed = driver.cuGetProcAddress_v2(
        b"cuMemcpyBatchAsync", ctypes.byref(found), _CUDA_13, ctypes.c_uint64(0), ctypes.byref(status)
    )
    if failed or not found.value:
        raise DeviceError(f"the driver has no cuMemcpyBatchAsync of CUDA 13 ({failed}, {status.value})")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    kind = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, size, pointer, pointer, size, pointer)
    return kind(found.value)
