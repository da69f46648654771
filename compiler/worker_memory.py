"""What a pool of workers has room for on the GPUs of a node: expected, and at best."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.formats import uniform
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpu_memory import Account, Pool, Usage, account, certain, sequence_bytes
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.load import Load
from dynamoc.compiler.memory import kv_block_bytes
from dynamoc.compiler.plan import Plan
from dynamoc.runtime.manifest import Role

ON_LOAD: Mapping[str, str] = {
    "fp8": "fp8",
    "mxfp8": "mxfp8",
    "modelopt": "fp8",
    "modelopt_fp8": "fp8",
    "modelopt_fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "w8a8_fp8": "fp8",
    "w8a8_int8": "int8",
    "awq": "awq",
    "gptq": "awq",
}
"""What an engine makes of weights that are not quantised yet, by the value of its flag."""
PRECISIONS: Mapping[str, str] = {"fp8": "fp8_block", "fp4": "nvfp4", "int4": "int4", "bf16": "bfloat16"}
"""The format people mean by a precision; other names of precisions are formats."""


class WorkerMemory(msgspec.Struct, frozen=True):
    """One rank of a component, the fullest. `sure` says whether `best` proves anything."""

    component: Component
    usage: Usage
    geometry: Geometry
    expected: Account
    best: Account
    sure: bool
    request: int | None
    """Tokens that a request of the load keeps there; None where no load was given."""

    def bytes_of(self, tokens: int) -> float:
        """KV of one sequence, as it is kept."""
        return sequence_bytes(self.geometry, self.usage, tokens)

    def least_bytes_of(self, tokens: int) -> float:
        """KV of one sequence in the smallest type the engine may choose."""
        smallest = replace(self.usage, kv_dtype="fp8") if self.usage.kv_dtype_is_ours else self.usage
        return sequence_bytes(self.geometry, smallest, tokens)

    @property
    def concurrency(self) -> int | None:
        """Requests of the load whose KV one worker holds at once; one more does not fit."""
        if self.request is None or not self.bytes_of(self.request):
            return None
        room = max(0.0, self.expected.kv)
        if self.usage.kv_tokens is not None:
            room = min(room, self.usage.kv_tokens * self.expected.token)
        return int(room / self.bytes_of(self.request)) * self.usage.sharding.groups


def smallest_gpus(plan: Plan) -> dict[str, int]:
    """Memory of the smallest GPU that a component has, by component."""
    sizes: dict[str, int] = {}
    for process in plan.processes:
        if process.gpus:
            memory = plan.cluster.nodes[process.node].gpu_memory_bytes
            sizes[process.component.name] = min(memory, sizes.get(process.component.name, memory))
    return sizes


def worker_memory(graph: Graph, component: Component, gpu_bytes: int) -> WorkerMemory | str | None:
    """The account of a component; a reason where it cannot be made, None where its engine uses no GPU memory."""
    options, geometry = component.worker, graph.model.geometry
    if options is None or options.device != "cuda":
        return None
    usage = dialect(options.engine).usage(options, component.role)
    if usage is None:
        return None
    if geometry is None:
        return "nothing is known of the model"
    if not gpu_bytes:
        return "the inventory does not say how much memory a GPU has"
    geometry = _as_loaded(geometry, graph.model.precision, options)
    if usage.pool is Pool.TOLD:
        blocks = dialect(options.engine).pool_blocks(geometry, options) or 0
        usage = replace(usage, kv_bytes=blocks * kv_block_bytes(geometry, options))
    return WorkerMemory(
        component,
        usage,
        geometry,
        expected=account(geometry, usage, gpu_bytes),
        best=certain(geometry, usage, gpu_bytes),
        sure=geometry.exact and not any("offload" in str(name) for name in options.args),
        request=None if graph.load is None else _request(component, graph.load),
    )


def _as_loaded(geometry: Geometry, precision: str | None, options: WorkerOptions) -> Geometry:
    """With the formats that the user says the weights have, or that the engine gives them."""
    if precision is not None and not geometry.exact:
        return replace(geometry, formats=uniform(PRECISIONS.get(precision, precision)))
    quantization = options.facts.get("quantization")
    if geometry.formats or quantization is None:
        return geometry
    made = ON_LOAD.get(str(quantization))
    return replace(geometry, exact=False) if made is None else replace(geometry, formats=uniform(made))


def _request(component: Component, load: Load) -> int:
    """A prefill worker never sees the output."""
    return load.longest_prompt if component.role is Role.PREFILL else load.longest_request
