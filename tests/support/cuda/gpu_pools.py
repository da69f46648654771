"""Pools of a real GPU for tests: whether there is one, what is put into its memory, what is found there."""

from __future__ import annotations

import numpy as np

from dynamoc.runtime.kv.cuda.device import DeviceError, require_devices, runtime
from dynamoc.runtime.kv.cuda.pool import DevicePool
from dynamoc.runtime.kv.layout import KvLayout

_UP, _DOWN = 1, 2


def why_no_gpu() -> str:
    """Empty if this process sees one."""
    try:
        return "" if require_devices() else "this process sees no GPU"
    except DeviceError as error:
        return str(error)


def uploaded(layout: KvLayout, data: np.ndarray) -> DevicePool:
    """A pool of as many blocks as there are data."""
    pool = DevicePool(layout, data.size // layout.block_bytes, 0)
    runtime.memcpy(pool.address, data.ctypes.data, data.size, _UP)
    return pool


def download(pool: DevicePool) -> np.ndarray:
    """A row a block."""
    data = np.empty(pool.data_bytes, np.uint8)
    runtime.memcpy(data.ctypes.data, pool.address, data.size, _DOWN)
    return data.reshape(pool.blocks, -1)
