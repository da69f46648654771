"""vLLM: `vllm serve`, or Dynamo's module of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from dynamoc.compiler.dialect import PlacedWorker, Ranks
from dynamoc.compiler.flags import Reading, convert, version_of
from dynamoc.compiler.gpu_memory import Pool, Sharding, Usage
from dynamoc.compiler.graph import Parallelism, WorkerOptions
from dynamoc.compiler.memory import GIB
from dynamoc.compiler.serving import SERVED, HostTier, ServedEngine, positive, usage_of
from dynamoc.compiler.spelling import model_of, read_mapping, server_of
from dynamoc.runtime.manifest import HostRef, Launch, PortRef, Role, Word

DEFAULT_FRACTION = 0.9
DEFAULT_TOKENS = 8192
DEFAULT_SEQUENCES = 256
CACHED_FLAG = "enable-prompt-tokens-details"
"""Its answers say how much of a prompt was cached."""
HOST_CACHE = "kv-offloading-size"
SHARES_HOST_CACHE = (0, 26, 0)
"""From here on its host tier is a file in /dev/shm that all ranks map (its pull request 50094)."""
CONNECTORS = {"nixl": "NixlConnector", "mooncake": "MooncakeConnector", "lmcache": "LMCacheConnectorV1"}
TRANSPORTS = {connector.lower(): transport for transport, connector in CONNECTORS.items()}


class Vllm(ServedEngine):
    """tp x pp x dp ranks, with experts over tp x dp; prefill context parallelism multiplies, decode's is inside tp."""

    name = "vllm"
    capabilities = replace(
        SERVED,
        devices=("cuda", "cpu"),
        transports=("nixl", "mooncake", "lmcache"),
        resizes_blocks=True,
        defaults={"dtype": "auto", "kv_dtype": "auto", "block_size": 16, "max_batched_tokens": 0, "max_sequences": 0},
    )
    host_tier = HostTier(GIB, whole=False, of_ranks=False)

    def read(self, args: Mapping[str, Any]) -> Reading:
        """Facts of the table, and those inside its JSON flags."""
        reading = super().read(args)
        facts, spelled = dict(reading.facts), dict(reading.spelled)
        for outer, key, fact in (
            ("kv_transfer", "kv_connector", "kv_connector"),
            ("kv_transfer", "kv_role", "kv_role"),
            ("speculative", "num_speculative_tokens", "draft_tokens"),
            ("eplb_config", "num_redundant_experts", "redundant_experts"),
            ("compilation", "max_cudagraph_capture_size", "graph_batch"),
        ):
            inside = read_mapping(facts.get(outer))
            fits, value = convert(inside.get(key), "str" if outer == "kv_transfer" else "int")
            if fits and value is not None:
                facts[fact], spelled[fact] = value, spelled[outer]
        connector = str(facts.get("kv_connector", "")).lower()
        if connector in TRANSPORTS:
            facts["kv_transport"], spelled["kv_transport"] = TRANSPORTS[connector], spelled["kv_transfer"]
        return Reading(facts, spelled, reading.flags, reading.unknown, reading.clashes, reading.mistyped)

    def parallel(self, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Parallelism:
        """Experts are parallel over all ranks of a stage, or not at all."""
        tp, pp, dp = (sizes.get(name, facts.get(name) or 1) for name in ("tp", "pp", "dp"))
        expert = tp * dp * (facts.get("pcp") or 1) if facts.get("expert_parallel") else 1
        return Parallelism(tp, pp, dp, sizes.get("ep", expert), cp=facts.get("pcp") or 1)

    def expert_ranks(self, parallel: Parallelism) -> Ranks:
        """Those of tp and dp together, of which it uses all or one."""
        ranks = parallel.tp * parallel.dp * parallel.cp
        names, sizes = "tp x dp", f"{parallel.tp} x {parallel.dp}"
        if parallel.cp > 1:
            names, sizes = f"{names} x cp", f"{sizes} x {parallel.cp}"
        return Ranks(ranks, f"{names} = {sizes} = {ranks}", indivisible=True)

    def divides_experts(self, facts: Mapping[str, Any]) -> bool:
        """Only its load balancer refuses a remainder."""
        return bool(facts.get("eplb"))

    def shares_world(self, facts: Mapping[str, Any]) -> bool:
        """Data-parallel ranks may be spread over servers, each of which is told the size of all together."""
        return any(facts.get(fact) is not None for fact in ("hybrid_lb", "external_lb", "dp_local", "dp_rank"))

    def usage(self, options: WorkerOptions, role: Role) -> Usage:
        """Its fraction is of the whole GPU, graphs beside it; experts are cut over all data-parallel ranks."""
        del role
        facts, parallel = options.facts, options.parallel
        experts = parallel.tp * parallel.dp * parallel.cp
        sharding = Sharding(
            heads=parallel.tp,
            tensor=parallel.tp,
            shared=parallel.tp,
            experts=experts,
            vocabulary=parallel.tp,
            stages=parallel.pp,
            sequence=positive(facts.get("dcp"), 1) * parallel.cp,
            groups=parallel.dp,
            redundant_experts=positive(facts.get("redundant_experts")),
        )
        return usage_of(
            options,
            sharding,
            Pool.TOTAL,
            DEFAULT_FRACTION,
            tokens=positive(options.max_batched_tokens, DEFAULT_TOKENS),
            sequences=positive(options.max_sequences, DEFAULT_SEQUENCES),
            graphs=not facts.get("eager"),
            exchanges_experts=bool(facts.get("expert_parallel")) and parallel.dp > 1,
            drafts=facts.get("speculative") is not None,
            kv_tokens=self.kv_tokens(options),
            kv_bytes=positive(facts.get("kv_bytes")) or options.kv_bytes,
            needs_context="context_length" in options.written or "context_length" in facts,
        )

    def own_cache_bytes(self, options: WorkerOptions) -> int:
        """Unless another program keeps them."""
        ours = options.facts.get("host_cache_backend") in (None, "native")
        return super().own_cache_bytes(options) if ours else 0

    def keeps_tier_in_shm(self, options: WorkerOptions) -> bool:
        """Ranks share one file."""
        version = version_of(options.version)
        return version is not None and version >= SHARES_HOST_CACHE

    def refuses_cache(self, options: WorkerOptions, role: Role) -> str | None:
        """It has one KV connector, which either moves blocks to workers or keeps them."""
        if self.table.lacks(HOST_CACHE, options.version):
            return f"vllm {options.version} has no flag for it yet"
        if role is not Role.AGGREGATED or "kv_transfer" in options.facts:
            return "its one KV connector moves blocks between workers here"
        return super().refuses_cache(options, role)

    def told(self, options: WorkerOptions) -> dict[str, Any]:
        """Experts are parallel or not; over how many ranks is not said."""
        told = super().told(options)
        return told | ({"expert_parallel": told.pop("ep") > 1} if "ep" in told else {})

    def command(self, worker: PlacedWorker) -> Launch | None:
        """One `serve` a node; further nodes join the first."""
        options = worker.options
        args = {key: value for key, value in options.args.items() if key.lstrip("-") != "model"}
        more = self.flags_of_fields(options)
        if "served_name" not in options.facts:
            more["served-model-name"] = worker.model.served_name
        model = model_of(worker.model, options)
        words: list[Word] = ["-m", "vllm.entrypoints.cli.main", "serve", model]
        if options.entrypoint == "dynamo":
            words = ["-m", "dynamo.vllm", "--model", model]
        elif options.device == "cpu":  # its distribution has another name, by which `serve` does not find itself
            words = ["-m", "vllm.entrypoints.openai.api_server", "--model", model]
        words += [*self.words(args, options), *self.words(more, options), *_role(worker), *server_of(worker)]
        served = self.events_of(worker, {"enable_kv_cache_events": True})
        if served.serves is not None and self.asks(CACHED_FLAG, options):
            words += [f"--{CACHED_FLAG}"]
        words += [*served.words, *_nodes(worker)]
        return Launch(words=tuple(words), env=_env(worker), serves=served.serves, events=served.events)

    def ports(self, role: Role, leads: bool, nodes: int) -> tuple[str, ...]:
        """Engines that hand KV over find each other at a port of their own."""
        return super().ports(role, leads, nodes) + (("kv",) if leads and role is not Role.AGGREGATED else ())


def _env(worker: PlacedWorker) -> dict[str, Word]:
    """Its processes meet each other, and their peers, at the node's address of the plan and no other."""
    host = HostRef(node=worker.nodes[worker.part])
    env: dict[str, Word] = {"VLLM_HOST_IP": host}
    if worker.role is not Role.AGGREGATED and worker.part == 0:
        side = PortRef(port=worker.ports["kv"])
        env |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": host, "VLLM_NIXL_SIDE_CHANNEL_PORT": side}
    return env


def _role(worker: PlacedWorker) -> list[Word]:
    facts, words = worker.options.facts, list[Word]()
    if worker.role is Role.AGGREGATED:
        return words
    if "kv_transfer" not in facts:
        connector = CONNECTORS.get(worker.transport or "", CONNECTORS["nixl"])
        told = {"kv_connector": connector, "kv_role": "kv_both"}
        told |= {"kv_buffer_device": "cpu"} if worker.options.device == "cpu" else {}
        words += ["--kv-transfer-config", json.dumps(told)]
    placed = {"disaggregation", "prefill_worker", "decode_worker"} & set(facts)
    if worker.options.entrypoint == "dynamo" and not placed:
        words += [f"--is-{worker.role}-worker"]
    return words


def _nodes(worker: PlacedWorker) -> list[Word]:
    nodes = len(worker.nodes)
    if nodes == 1:
        return []
    facts, parallel = worker.options.facts, worker.options.parallel
    words: list[Word] = []
    leader = HostRef(node=worker.nodes[0])
    if parallel.dp % nodes == 0:  # whole data-parallel ranks on every node
        local = parallel.dp // nodes
        if "dp_local" not in facts:
            words += ["--data-parallel-size-local", str(local)]
        if "dp_address" not in facts:
            words += ["--data-parallel-address", leader]
        if "dp_port" not in facts:
            words += ["--data-parallel-rpc-port", PortRef(port=worker.ports["rendezvous"])]
        if worker.part and "dp_start_rank" not in facts:
            words += ["--data-parallel-start-rank", str(local * worker.part)]
    else:
        words += ["--nnodes", str(nodes), "--node-rank", str(worker.part)]
        words += ["--master-addr", leader, "--master-port", PortRef(port=worker.ports["rendezvous"])]
    return [*words, "--headless"] if worker.part and not facts.get("hybrid_lb") else words


DIALECT = Vllm()
