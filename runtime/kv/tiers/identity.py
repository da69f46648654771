"""What weights are these? Pages outlive processes, and must never meet another model that goes by the same name."""

from __future__ import annotations

import hashlib
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

_SUFFIXES = (".safetensors", ".gguf", ".json")
_THREADS = 4


def model_identity(name: str, folder: Path) -> str:
    """The name, and a hash over every byte that decides the KV: weights and configuration. Blocking."""
    files = sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES) if folder.is_dir() else []
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(_sum, files))
    facts = [(path.name, path.stat().st_size, digest) for path, digest in zip(files, sums, strict=True)]
    return f"{name} {hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()}"


def _sum(path: Path) -> str:
    if not path.stat().st_size:
        return ""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        return xxhash.xxh3_128_hexdigest(data)
