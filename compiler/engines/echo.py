"""The echo engine: answers with the prompt and reports where it runs; it needs no model."""

from __future__ import annotations

from dynamoc.compiler.dialect import EngineCapabilities, OwnEngine
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.graph import WorkerOptions
from dynamoc.compiler.memory import ITEM_BYTES, simulated_pool_blocks


class Echo(OwnEngine):
    """Any shape of worker is right: it shows where ranks are, not what they compute."""

    name = "echo"
    capabilities = EngineCapabilities(
        devices=("cpu", "cuda"),
        dimensions=("tp", "pp", "dp", "ep"),
        dtypes=tuple(ITEM_BYTES),
        kv_dtypes=tuple(ITEM_BYTES),
        divides_model=False,
        shards_blocks=False,
        arguments=("eos_token_id",),
    )

    def pool_blocks(self, geometry: Geometry | None, options: WorkerOptions) -> int | None:
        """A pool of tiny pages."""
        return simulated_pool_blocks(geometry, options)

    def host_bytes(self, geometry: Geometry | None, options: WorkerOptions, blocks: int) -> int:
        """Nothing worth counting."""
        del geometry, options, blocks
        return 0


DIALECT = Echo()
