"""Bytes: of a KV block and of the weights, from the geometry of a model."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.graph import WorkerOptions

GIB = 1024**3
MIB = 1024**2
SIMULATED_SEQUENCES = 8

ITEM_BYTES: Mapping[str, int] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}


def kv_block_bytes(geometry: Geometry, options: WorkerOptions) -> int:
    """Keys and values of one block over all layers and all ranks of a worker."""
    return int(geometry.kv_elements * options.block_size * ITEM_BYTES[options.kv_dtype])


def weight_bytes(geometry: Geometry, dtype: str) -> int:
    """All weights, in the type the engine computes in; a lower bound where the width of the MLPs is unknown."""
    return geometry.parameters * ITEM_BYTES[dtype]


def blocks_of(amount: int, block: int) -> int:
    """Blocks that hold so much: tokens of `block` tokens, or bytes of `block` bytes."""
    return -(-amount // block)


def simulated_pool_blocks(geometry: Geometry | None, options: WorkerOptions) -> int | None:
    """Blocks of an engine whose pages are tiny: as told, or room for a few sequences of full length."""
    if options.kv_blocks is not None:
        return options.kv_blocks
    if options.kv_bytes is not None:
        return None if geometry is None else options.kv_bytes // kv_block_bytes(geometry, options)
    return SIMULATED_SEQUENCES * blocks_of(options.context_length, options.block_size)


def spell_bytes(size: int) -> str:
    """A size for people: `11.2 GiB`."""
    for unit, name in ((1024 * GIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}".replace(".0 ", " ")
    return f"{size} B"


def largest_size(size: int) -> str:
    """A round size that is not larger, as a spec says it: `1023 GiB`, `700 MiB`; empty below 1 MiB."""
    unit, name = (GIB, "GiB") if size >= 8 * GIB else (MIB, "MiB")
    return f"{size // unit} {name}" if size >= MIB else ""
