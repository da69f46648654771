"""What the kernel was asked of memory that devices reach: huge pages, and to keep it from children."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory import HUGE_PAGE_BYTES, huge_memory
from dynamoc.runtime.kv.pool import HostPool

HAS_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage").exists()
LAYOUT = KvLayout(layers=3, heads=2, head_dim=8, block_size=4, dtype="float32", item_bytes=4)


def mapping(address: int) -> tuple[str, set[str]]:
    """Permissions and flags of the mapping an address is in, as the kernel tells them."""
    permissions = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, end = (int(bound, 16) for bound in first.split("-"))
            permissions = rest[0] if start <= address < end else ""
        elif first == "VmFlags:" and permissions:
            return permissions, set(rest)
    raise AssertionError(f"nothing is mapped at {address:#x}")


def where(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@pytest.mark.parametrize("size", [0, 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1])
def test_memory_is_whole_huge_pages_of_zeros(size: int) -> None:
    memory = huge_memory(size)

    assert size <= len(memory) < max(size, 1) + HUGE_PAGE_BYTES
    assert len(memory) % HUGE_PAGE_BYTES == 0
    assert not any(memory[::4096])


def test_memory_stays_with_the_process_that_transfers_to_it() -> None:
    memory = huge_memory(1)
    permissions, flags = mapping(where(memory))

    assert permissions == "rw-p"
    assert "dc" in flags, "a fork would take it along"


@pytest.mark.skipif(not HAS_HUGE_PAGES, reason="a kernel without huge pages")
def test_huge_pages_are_asked_for_private_memory_and_for_pools() -> None:
    memory, pool = huge_memory(1), HostPool(LAYOUT, 4)

    assert "hg" in mapping(where(memory))[1]
    assert "hg" in mapping(pool.address)[1]
    pool.close()
