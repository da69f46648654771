"""TensorRT-LLM: `trtllm-serve` with a file of its options, or Dynamo's module of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoc.compiler.dialect import EngineCapabilities, PlacedWorker
from dynamoc.compiler.gpu_memory import Pool, Sharding, Usage
from dynamoc.compiler.graph import Parallelism, WorkerOptions
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.serving import ServedEngine, model_of, positive, usage_of
from dynamoc.runtime.manifest import FileRef, Launch, Role, Word

DEFAULT_FRACTION = 0.9
DEFAULT_TOKENS = 8192
DEFAULT_SEQUENCES = 2048
OPTIONS_FILE = "engine.yaml"


class Trtllm(ServedEngine):
    """tp x pp x cp ranks; attention DP gives each rank of tp requests of its own, so it is inside tp."""

    name = "trtllm"
    capabilities = EngineCapabilities(
        devices=("cuda",),
        dimensions=("tp", "pp", "dp", "ep"),
        dtypes=None,
        kv_dtypes=None,
        divides_model=True,
        shards_blocks=False,
        transports=("default", "ucx", "nixl", "mooncake", "mpi"),
        spans_nodes=True,
        external=True,
        defaults={"dtype": "auto", "kv_dtype": "auto", "block_size": 32, "max_batched_tokens": 0, "max_sequences": 0},
    )

    def parallel(self, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Parallelism:
        """`dp` can only be what attention DP makes it."""
        tp, pp, ep = (sizes.get(name, facts.get(name) or 1) for name in ("tp", "pp", "ep"))
        inside = bool(facts.get("dp_attention"))
        dp = sizes.get("dp", tp if inside else 1)
        return Parallelism(tp, pp, dp, ep, cp=facts.get("cp") or 1, dp_inside_tp=inside)

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

    def command(self, worker: PlacedWorker) -> Launch | None:
        """All of `args` are in a file, so that nested values arrive as they were written."""
        options = worker.options
        text = to_yaml({**options.args, **_nested(self.flags_of_fields(options))})
        model = model_of(worker.model, options)
        words: list[Word] = ["-m", "tensorrt_llm.commands.serve", model, "--config", FileRef(name=OPTIONS_FILE)]
        if options.entrypoint == "dynamo":
            words = ["-m", "dynamo.trtllm", "--model-path", model, "--extra-engine-args", FileRef(name=OPTIONS_FILE)]
            words += ["--served-model-name", worker.model.served_name]
            if worker.role is not Role.AGGREGATED:
                words += ["--disaggregation-mode", str(worker.role)]
        return Launch(words=tuple(words), files={OPTIONS_FILE: text})


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    """`kv_cache_config.dtype: fp8` as sections."""
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        *sections, last = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return nested


DIALECT = Trtllm()
