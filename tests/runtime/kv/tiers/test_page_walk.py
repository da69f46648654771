"""The walk by which a GPU makes pages of blocks gives the pages that CPU workers gather."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.tiers.device import HostDevice
from dynamoc.runtime.kv.tiers.page import page_format
from dynamoc.runtime.kv.transfer.slices import copy_slices
from dynamoc.runtime.kv.transfer.walk import UNIVERSAL, Placement, walk

BLOCKS = 9


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_blocks_become_the_same_pages(heads: int, parts: int) -> None:
    layout = KvLayout(5, heads, 24, 7, "float16", 2, parts)
    pool = HostPool(layout, BLOCKS)
    pool.data[:] = os.urandom(pool.data_bytes)
    device = HostDevice(pool, page_format(layout, "m"))
    order = np.random.default_rng(heads).permutation(BLOCKS)
    gathered = np.zeros((BLOCKS, layout.block_bytes), np.uint8)
    device.read(order.tolist(), [memoryview(page) for page in gathered])  # type: ignore[arg-type]
    walked = np.zeros(pool.data_bytes, np.uint8)
    out = walk(Placement(layout, BLOCKS), Placement(layout, BLOCKS, UNIVERSAL))
    copy_slices(out, np.frombuffer(pool.data, np.uint8), order, walked, np.arange(BLOCKS))

    assert (walked.reshape(BLOCKS, -1) == gathered).all()
    assert out.target_stride == device.format.page_bytes
    device.close()
    pool.close()
