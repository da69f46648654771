"""The mocker: the native scheduler over simulated time. It holds GPUs only on paper."""

from __future__ import annotations

from dynamoc.compiler.dialect import EngineCapabilities, OwnEngine
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.graph import WorkerOptions
from dynamoc.compiler.memory import ITEM_BYTES, simulated_pool_blocks


class Mocker(OwnEngine):
    """It stands for a real engine, so the model must divide over its ranks as it would there."""

    name = "mocker"
    capabilities = EngineCapabilities(
        devices=("cpu", "cuda"),
        dimensions=("tp", "pp", "dp", "ep"),
        dtypes=tuple(ITEM_BYTES),
        kv_dtypes=tuple(ITEM_BYTES),
        divides_model=True,
        shards_blocks=False,
        arguments=(
            "speedup",
            "prefill_base_ms",
            "prefill_us_per_token",
            "prefill_ns_per_pair",
            "decode_step_ms",
            "decode_us_per_sequence",
            "decode_us_per_block",
            "vocab_size",
            "first_token",
            "kv",
        ),
    )

    def pool_blocks(self, geometry: Geometry | None, options: WorkerOptions) -> int | None:
        """`kv_memory` is taken as the simulated engine's."""
        return simulated_pool_blocks(geometry, options)

    def host_bytes(self, geometry: Geometry | None, options: WorkerOptions, blocks: int) -> int:
        """Nothing worth counting."""
        del geometry, options, blocks
        return 0


DIALECT = Mocker()
