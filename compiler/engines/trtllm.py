"""TensorRT-LLM: `trtllm-serve` with a file of its options, or Dynamo's module of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from dynamoc.compiler.dialect import PlacedWorker, Ranks
from dynamoc.compiler.gpu_memory import Pool, Sharding, Usage
from dynamoc.compiler.graph import Parallelism, WorkerOptions
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.serving import SERVED, HostTier, ServedEngine, positive, usage_of
from dynamoc.compiler.spelling import model_of, nested, served_at, server_of
from dynamoc.runtime.manifest import FileRef, Launch, Role, Word

DEFAULT_FRACTION = 0.9
DEFAULT_TOKENS = 8192
DEFAULT_SEQUENCES = 2048
OPTIONS_FILE = "engine.yaml"


class Trtllm(ServedEngine):
    """tp x pp x cp ranks; attention DP gives each rank of tp requests of its own, so it is inside tp."""

    name = "trtllm"
    capabilities = replace(
        SERVED,
        transports=("default", "ucx", "nixl", "mooncake", "mpi"),
        bounds_context=False,
        start_s=1800.0,
        defaults={"dtype": "auto", "kv_dtype": "auto", "block_size": 32, "max_batched_tokens": 0, "max_sequences": 0},
    )
    publishes_events = False
    host_tier = HostTier(1, whole=True, of_ranks=True)

    def parallel(self, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Parallelism:
        """`dp` can only be what attention DP makes it."""
        tp, pp, ep = (sizes.get(name, facts.get(name) or 1) for name in ("tp", "pp", "ep"))
        inside = bool(facts.get("dp_attention"))
        dp = sizes.get("dp", tp if inside else 1)
        return Parallelism(tp, pp, dp, ep, cp=facts.get("cp") or 1, dp_inside_tp=inside or dp == tp)

    def expert_ranks(self, parallel: Parallelism) -> Ranks:
        """Context-parallel ranks hold experts too."""
        arithmetic = f"tp x cp = {parallel.tp} x {parallel.cp}" if parallel.cp > 1 else f"tp = {parallel.tp}"
        return Ranks(parallel.tp * parallel.cp, arithmetic)

    def divides_experts(self, facts: Mapping[str, Any]) -> bool:
        """Only the slots of its load balancer must divide; those are looked at wherever they are written."""
        del facts
        return False

    def usage(self, options: WorkerOptions, role: Role) -> Usage:
        """Its fraction is of what all else leaves free; experts are cut over tp, heads are not with attention DP."""
        del role
        facts, parallel = options.facts, options.parallel
        sharding = Sharding(
            heads=parallel.attention_tp,
            tensor=parallel.tp,
            shared=parallel.tp,
            experts=parallel.tp * parallel.cp,
            vocabulary=parallel.tp,
            stages=parallel.pp,
            sequence=parallel.cp,
            groups=parallel.dp,
        )
        return usage_of(
            options,
            sharding,
            Pool.FREE,
            DEFAULT_FRACTION,
            tokens=positive(options.max_batched_tokens, DEFAULT_TOKENS),
            sequences=positive(options.max_sequences, DEFAULT_SEQUENCES),
            graphs=facts.get("graphs", True) is not None,
            exchanges_experts=parallel.dp_inside_tp and parallel.ep > 1,
            drafts=facts.get("speculative") is not None,
            kv_tokens=self.kv_tokens(options),
        )

    def told(self, options: WorkerOptions) -> dict[str, Any]:
        """Its pool is measured in tokens; attention is data parallel over all of tp or not at all."""
        told = super().told(options)
        told |= {"kv_tokens": told.pop("kv_blocks") * options.block_size} if "kv_blocks" in told else {}
        if told.get("dp") in (1, options.parallel.tp):
            told["dp_attention"] = told.pop("dp") > 1
        return told

    def unsaid(self, options: WorkerOptions) -> tuple[str, ...]:
        """Its file says all of them."""
        del options
        return ()

    def command(self, worker: PlacedWorker) -> Launch | None:
        """All of `args` are in a file, so that nested values arrive as they were written.

        Over several nodes the first one's process leads MPI ranks, and those of the others wait for its orders.
        """
        options = worker.options
        text = to_yaml(nested(self.flags_of_fields(options), options.args))
        model, file = model_of(worker.model, options), FileRef(name=OPTIONS_FILE)
        if worker.part:
            words: list[Word] = ["-m", "tensorrt_llm.llmapi.mgmn_worker_node"]
        elif options.entrypoint == "dynamo":
            words = ["-m", "dynamo.trtllm", "--model-path", model, "--extra-engine-args", file]
            words += ["--served-model-name", options.facts.get("served_name") or worker.model.served_name]
            words += [] if worker.role is Role.AGGREGATED else ["--disaggregation-mode", str(worker.role)]
        else:
            words = ["-m", "tensorrt_llm.commands.serve", model, "--extra_llm_api_options", file]
            words += [*server_of(worker)]
        several = len(worker.nodes) > 1
        return Launch(words=tuple(words), files={OPTIONS_FILE: text}, serves=served_at(worker), mpi=several)


DIALECT = Trtllm()
