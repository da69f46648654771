"""Small GGUF files, written byte by byte from the format's description."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

F32, F16, Q4_0, Q4_1, Q8_0, BF16, Q4_K = 0, 1, 2, 3, 8, 30, 12

Tensor = tuple[tuple[int, ...], int, bytes]
"""Shape with the slowest dimension first, encoding, bytes."""


def f32(values: np.ndarray) -> Tensor:
    return values.shape, F32, values.astype("<f4").tobytes()


def write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], *, version: int = 3) -> Path:
    """A GGUF file with 32-byte alignment."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _string(key) + _typed(value)
    offset, body = 0, b""
    for name, (shape, encoding, data) in tensors.items():
        head += _string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", encoding, offset)
        padded = data + bytes(-len(data) % 32)
        body, offset = body + padded, offset + len(padded)
    path.write_bytes(head + bytes(-len(head) % 32) + body)
    return path


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _typed(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kinds = 8 if isinstance(value[0], str) else 5
    items = b"".join(_string(item) if kinds == 8 else struct.pack("<i", item) for item in value)
    return struct.pack("<IIQ", 9, kinds, len(value)) + items
