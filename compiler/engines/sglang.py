"""SGLang: `python -m sglang.launch_server`, or Dynamo's module of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from dynamoc.compiler.dialect import PlacedWorker
from dynamoc.compiler.gpu_memory import Pool, Sharding, Usage
from dynamoc.compiler.graph import Parallelism, WorkerOptions
from dynamoc.compiler.serving import SERVED, HostTier, ServedEngine, positive, usage_of
from dynamoc.compiler.spelling import model_of, server_of
from dynamoc.runtime.manifest import HostRef, Launch, PortRef, Role, Word

DEFAULT_FRACTION = 0.88
DEFAULT_TOKENS = 8192
DEFAULT_SEQUENCES = 256
METRICS_FLAG = "enable-metrics"
"""Its counters are off otherwise."""


class Sglang(ServedEngine):
    """With data-parallel attention dp is inside tp; without, dp copies of the model stand beside each other."""

    name = "sglang"
    capabilities = replace(
        SERVED,
        transports=("mooncake", "nixl"),
        copies_over_nodes=False,
        kv_names={"fp8": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"},
        defaults={"dtype": "auto", "kv_dtype": "auto", "block_size": 1, "max_batched_tokens": 0, "max_sequences": 0},
    )
    host_tier = HostTier(10**9, whole=True, of_ranks=True, switches={"hierarchical_cache": True})

    def parallel(self, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Parallelism:
        """With experts exchanged by DeepEP and its like, they are parallel over all of tp, whatever `ep-size` says."""
        tp, pp, dp, ep = (sizes.get(name, facts.get(name) or 1) for name in ("tp", "pp", "dp", "ep"))
        inside = bool(facts.get("dp_attention")) or (facts.get("attention_dp") or 1) > 1
        dp = facts["attention_dp"] if (facts.get("attention_dp") or 1) > 1 and "dp" not in sizes else dp
        exchanged = facts.get("a2a") not in (None, "none")
        return Parallelism(
            tp,
            pp,
            dp,
            tp if exchanged and "ep" not in sizes else ep,
            attention_cp=facts.get("attention_cp") or 1,
            dp_inside_tp=inside,
        )

    def ports(self, role: Role, leads: bool, nodes: int) -> tuple[str, ...]:
        """Decode workers ask prefill workers where KV is, at a server of its own."""
        return super().ports(role, leads, nodes) + (("bootstrap",) if leads and role is Role.PREFILL else ())

    def usage(self, options: WorkerOptions, role: Role) -> Usage:
        """Its fraction is of what is free at the start, for weights and KV; experts are cut over all of tp."""
        facts, parallel = options.facts, options.parallel
        exchanged = facts.get("a2a") not in (None, "none")
        heads, inside = parallel.attention_tp, parallel.dp if parallel.dp_inside_tp else 1
        sharding = Sharding(
            heads=heads,
            tensor=positive(facts.get("dense_tp"), parallel.tp),
            shared=1 if exchanged else parallel.tp,
            experts=parallel.tp,
            vocabulary=heads if facts.get("dp_lm_head") else parallel.tp,
            stages=parallel.pp,
            sequence=parallel.attention_cp,
            groups=parallel.dp,
            redundant_experts=positive(facts.get("redundant_experts")),
        )
        sequences = positive(options.max_sequences, DEFAULT_SEQUENCES * inside) // inside or 1
        drafted = sequences * positive(facts.get("draft_tokens"), 1)
        chunk = positive(facts.get("chunked_prefill"), options.max_batched_tokens, DEFAULT_TOKENS * inside) // inside
        return usage_of(
            options,
            sharding,
            Pool.STATIC,
            DEFAULT_FRACTION,
            tokens=drafted if role is Role.DECODE else max(chunk, 1),
            sequences=sequences,
            graphs=not facts.get("eager"),
            exchanges_experts=exchanged,
            drafts=facts.get("speculative") is not None,
            kv_tokens=self.kv_tokens(options),
        )

    def refuses_cache(self, options: WorkerOptions, role: Role) -> str | None:
        """Decode workers keep no prefixes."""
        if role is Role.DECODE:
            return "its decode workers keep no prefix cache to extend"
        return super().refuses_cache(options, role)

    def told(self, options: WorkerOptions) -> dict[str, Any]:
        """Its radix cache is switched off, not on; its pool is measured in tokens."""
        told = super().told(options)
        told |= {"no_prefix_caching": not told.pop("prefix_caching")} if "prefix_caching" in told else {}
        return told | ({"kv_tokens": told.pop("kv_blocks") * options.block_size} if "kv_blocks" in told else {})

    def command(self, worker: PlacedWorker) -> Launch | None:
        """One launcher a node; the first node's address is where they meet."""
        options, facts = worker.options, worker.options.facts
        module = "dynamo.sglang" if options.entrypoint == "dynamo" else "sglang.launch_server"
        more = self.flags_of_fields(options)
        if "model" not in facts:
            more["model-path"] = model_of(worker.model, options)
        if "served_name" not in facts:
            more["served-model-name"] = worker.model.served_name
        if worker.role is not Role.AGGREGATED:
            if "kv_transport" not in facts and worker.transport is not None:
                more["disaggregation-transfer-backend"] = worker.transport
            if "disaggregation" not in facts:
                more["disaggregation-mode"] = str(worker.role)
            if "bootstrap_port" not in facts and worker.role is Role.PREFILL and "bootstrap" in worker.ports:
                more["disaggregation-bootstrap-port"] = PortRef(port=worker.ports["bootstrap"])
        words: list[Word] = [
            "-m",
            module,
            *self.words(options.args, options),
            *self.words(more, options),
            *server_of(worker),
        ]
        if len(worker.nodes) > 1:
            meeting = HostRef(node=worker.nodes[0], port=worker.ports["rendezvous"])
            words += ["--nnodes", str(len(worker.nodes)), "--node-rank", str(worker.part), "--dist-init-addr", meeting]
        served = self.events_of(worker, {})
        if served.serves is not None and self.asks(METRICS_FLAG, options):
            words += [f"--{METRICS_FLAG}"]
        return Launch(words=(*words, *served.words), serves=served.serves, events=served.events)


DIALECT = Sglang()
