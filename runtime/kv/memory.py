"""Host memory that disks, network cards and copy engines reach with few descriptors."""

from __future__ import annotations

import contextlib
import mmap

HUGE_PAGE_BYTES = 2 << 20


def huge_memory(size: int) -> mmap.mmap:
    """At least `size` zero bytes, in huge pages where the kernel gives some.

    What lies scattered over pages of 4 KiB costs a descriptor for each, and a request is cut after so many of them: a
    disk read into such memory came at two fifths of its speed.
    """
    # Private, because shared memory gets no huge pages by default; a multiple of them, because only such a mapping
    # begins at a huge page's boundary.
    whole = -(-max(size, 1) // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    memory = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    prefer_huge_pages(memory)
    # A fork in the middle of a transfer would leave the child with the pages it goes to, and us with copies of them.
    memory.madvise(mmap.MADV_DONTFORK)
    return memory


def prefer_huge_pages(memory: mmap.mmap) -> None:
    """Where the kernel may: for shared memory, if `transparent_hugepage/shmem_enabled` says `advise`."""
    with contextlib.suppress(OSError):  # a kernel built without huge pages: small ones work too
        memory.madvise(mmap.MADV_HUGEPAGE)
