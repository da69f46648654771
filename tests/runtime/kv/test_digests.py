"""The kernel that takes xxh3-64 of groups of bytes: its own source, run lane by lane, against the library."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import xxhash


@pytest.mark.parametrize("count", [1, 5, 9])
@pytest.mark.parametrize("group_bytes", [248, 256, 1024, 1032, 4096, 5128])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("less", [0, 1])
def test_every_group_of_every_block(
    kernels_on_host: ctypes.CDLL, count: int, group_bytes: int, groups: int, less: int
) -> None:
    last_bytes = max(248, group_bytes - less * 776)
    run_bytes = (groups - 1) * group_bytes + last_bytes
    stride = math.ceil(run_bytes / 64) * 64 + 8
    memory = np.random.default_rng(count).integers(0, 256, (count + 3) * stride + 8, np.uint8)
    start = -memory.ctypes.data % 8
    blocks = np.random.default_rng(groups).permutation(count + 2)[:count].astype(np.uint64)
    table = np.array([blocks.ctypes.data, memory.ctypes.data + start, stride], np.uint64)
    out = np.zeros(count * groups + 1, np.uint64)

    kernels_on_host.launch_digests(
        ctypes.c_uint32(2),
        ctypes.c_uint32(64),
        ctypes.c_void_p(table.ctypes.data),
        ctypes.c_uint32(count),
        ctypes.c_uint32(groups),
        ctypes.c_uint64(group_bytes),
        ctypes.c_uint64(last_bytes),
        ctypes.c_void_p(out.ctypes.data),
    )

    runs = [memory[start + stride * int(block) :][:run_bytes] for block in blocks]
    expected = [xxhash.xxh3_64_intdigest(run[g * group_bytes :][:group_bytes]) for run in runs for g in range(groups)]
    assert out.tolist() == [*expected, 0]
