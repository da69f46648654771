"""Lines of a log after which a start does not succeed, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping

MARKERS: Mapping[str, str] = {
    "a GPU is out of memory": r"CUDA out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation",
    "a GPU failed": r"CUDA error:|CUDA_ERROR_(?!OUT_OF_MEMORY)\w+|Xid \(|uncorrectable ECC",
    "NCCL failed": r"NCCL error|nccl(System|Internal|Remote|UnhandledCuda|InvalidUsage)Error",
    "a port is taken": r"[Aa]ddress already in use",
    "a file is missing": r"FileNotFoundError|No such file or directory",
    "a file cannot be read": r"PermissionError|Permission denied",
    "the disk is full": r"No space left on device|Disk quota exceeded",
    "memory ran out": r"MemoryError|Cannot allocate memory|std::bad_alloc",
    "a library does not fit": r"undefined symbol|cannot open shared object file|GLIBC(XX)?_\S+. not found",
    "a module is missing": r"ModuleNotFoundError|cannot import name",
    "the processor lacks an instruction": r"[Ii]llegal instruction",
    "it crashed": r"[Ss]egmentation fault|Fatal Python error|core dumped",
    "the weights are refused": r"GatedRepoError|401 Client Error|403 Client Error",
}
"""What a marker means, and how engines and libraries spell it."""

_ANY = re.compile("|".join(f"(?P<m{number}>{spelt})" for number, spelt in enumerate(MARKERS.values())))


def marker_in(text: str) -> str | None:
    """What the last marker of a text means, with its line; None if there is none."""
    for line in reversed(text.splitlines()):
        found = _ANY.search(line)
        if found is not None:
            meaning = next(m for number, m in enumerate(MARKERS) if found[f"m{number}"] is not None)
            return f"{meaning} ({line.strip()[:200]})"
    return None
