"""SGLang: `python -m sglang.launch_server`, or Dynamo's module of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoc.compiler.dialect import EngineCapabilities, PlacedWorker
from dynamoc.compiler.graph import Parallelism
from dynamoc.compiler.serving import ServedEngine, model_of, spell_flags
from dynamoc.runtime.manifest import HostRef, Launch, Role, Word


class Sglang(ServedEngine):
    """With data-parallel attention dp is inside tp; without, dp copies of the model stand beside each other."""

    name = "sglang"
    capabilities = EngineCapabilities(
        devices=("cuda",),
        dimensions=("tp", "pp", "dp", "ep"),
        dtypes=None,
        kv_dtypes=None,
        divides_model=True,
        shards_blocks=False,
        transports=("mooncake", "nixl"),
        spans_nodes=True,
        external=True,
        defaults={"dtype": "auto", "kv_dtype": "auto", "block_size": 1, "max_batched_tokens": 0, "max_sequences": 0},
    )

    def parallel(self, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Parallelism:
        """With experts exchanged by DeepEP and its like, they are parallel over all of tp, whatever `ep-size` says."""
        tp, pp, dp, ep = (sizes.get(name, facts.get(name) or 1) for name in ("tp", "pp", "dp", "ep"))
        inside = bool(facts.get("dp_attention"))
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
            if "disaggregation" not in facts:
                more["disaggregation-mode"] = str(worker.role)
            if "bootstrap_port" not in facts and worker.role is Role.PREFILL and "bootstrap" in worker.ports:
                more["disaggregation-bootstrap-port"] = worker.ports["bootstrap"]
        words: list[Word] = ["-m", module, *spell_flags(options.args, "words"), *spell_flags(more, "words")]
        if len(worker.nodes) > 1:
            meeting = HostRef(node=worker.nodes[0], port=worker.ports["rendezvous"])
            words += ["--nnodes", str(len(worker.nodes)), "--node-rank", str(worker.part), "--dist-init-addr", meeting]
        return Launch(words=tuple(words))


DIALECT = Sglang()
