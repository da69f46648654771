"""The native engine: torch, on a CPU or on one GPU."""

from __future__ import annotations

from dynamoc.compiler.dialect import EngineCapabilities, OwnEngine
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpu_memory import Pool, Sharding, Usage
from dynamoc.compiler.graph import WorkerOptions
from dynamoc.compiler.memory import MIB, blocks_of, kv_block_bytes, weight_bytes
from dynamoc.runtime.manifest import Role

DEFAULT_POOL_BYTES = 512 * MIB


class Native(OwnEngine):
    """Its pool is memory of its device: `kv_blocks`, `kv_memory`, or a default that holds at least one sequence."""

    name = "native"
    capabilities = EngineCapabilities(
        devices=("cpu", "cuda"),
        dimensions=(),
        transports=("shm", "tcp", "nixl"),
        gpu_transports=("nvlink", "nixl"),
        dtypes=("float32", "bfloat16", "float16"),
        kv_dtypes=None,
        divides_model=True,
        shards_blocks=True,
        block_sizes=(8, 16, 32, 64, 128, 256),
        arguments=("threads", "compute_dtype", "weights", "kv"),
        tiers=("host", "disk", "object"),
    )

    def pool_blocks(self, geometry: Geometry | None, options: WorkerOptions) -> int | None:
        """From the user's number, or from bytes where the model is known."""
        if options.kv_blocks is not None:
            return options.kv_blocks
        if geometry is None:
            return None
        block_bytes = kv_block_bytes(geometry, options)
        if options.kv_bytes is not None:
            return options.kv_bytes // block_bytes
        return max(DEFAULT_POOL_BYTES // block_bytes, blocks_of(options.context_length, options.block_size))

    def host_bytes(self, geometry: Geometry | None, options: WorkerOptions, blocks: int) -> int:
        """Weights and pool."""
        if geometry is None:
            return 0
        return weight_bytes(geometry, options.dtype) + blocks * kv_block_bytes(geometry, options)

    def usage(self, options: WorkerOptions, role: Role) -> Usage | None:
        """On a GPU: weights in its type, and a pool of the size that the spec says."""
        del role
        if options.device != "cuda":
            return None
        return Usage(
            sharding=Sharding(),
            pool=Pool.TOLD,
            fraction=1.0,
            tokens=options.max_batched_tokens,
            sequences=options.max_sequences,
            dtype=options.dtype,
            kv_dtype=options.kv_dtype,
            graphs=False,
        )


DIALECT = Native()
