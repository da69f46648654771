"""Spec: exactly what may be written in the file, and nothing more. The editors' JSON schema comes from here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from dynamoc.compiler.cache_spec import CacheSpec, DiskTierSpec, ObjectTierSpec, TiersSpec
from dynamoc.compiler.load_spec import LoadSpec
from dynamoc.compiler.schema import schema_of
from dynamoc.compiler.written import (
    Dtype,
    Duration,
    Environment,
    Name,
    Part,
    Positive,
    Precision,
    Replicas,
    Size,
    Text,
    TimeLimit,
    Written,
)


class ModelSpec(Part):
    """The model: `ref` names it, `path` is a folder with its weights; at least one of them."""

    ref: Text | None = Field(
        default=None, description="Name of the model, owner/name.", examples=["HuggingFaceTB/SmolLM2-135M-Instruct"]
    )
    path: Text | None = Field(
        default=None, description="Folder with weights and tokenizer, on every node.", examples=["/models/smollm2"]
    )
    revision: Written | None = Field(
        default=None, description="Commit or tag of `ref`.", examples=["12fd25f77366fa6b3b4b768ec3050bf629380bac"]
    )
    served_name: Text | None = Field(
        default=None,
        description="What clients call the model; the last part of `ref` if left out.",
        examples=["smollm2"],
    )
    precision: Precision | None = Field(
        default=None, description="Precision of the weights, where it is not that of `ref`.", examples=["fp8"]
    )


class ParallelSpec(Part):
    """GPUs of one worker: tp x pp x dp; ep divides them."""

    tp: Positive | None = Field(default=None, description="Tensor parallel size.", examples=[2])
    pp: Positive | None = Field(default=None, description="Pipeline parallel size.", examples=[1])
    dp: Positive | None = Field(default=None, description="Data parallel size.", examples=[1])
    ep: Positive | None = Field(default=None, description="Expert parallel size; divides tp x pp x dp.", examples=[1])


class WorkerFields(Part):
    """What `defaults` may say of all workers, and a worker of itself."""

    replicas: Replicas | None = Field(default=None, description="How many workers.", examples=[2])
    engine: Text | None = Field(
        default=None,
        description="What computes: native, vllm, sglang, trtllm, mocker or echo.",
        examples=["native"],
    )
    version: Written | None = Field(default=None, description="Version of the engine.", examples=["0.24.0"])
    image: Text | None = Field(
        default=None, description="Container image of the engine.", examples=["vllm/vllm-openai:v0.24.0"]
    )
    entrypoint: Literal["native", "dynamo"] | None = Field(
        default=None,
        description="Who starts the engine: its own server, or Dynamo's module of it.",
        examples=["native"],
    )
    device: Literal["cuda", "cpu"] | None = Field(
        default=None, description="Where the engine computes.", examples=["cpu"]
    )
    dtype: Dtype | None = Field(default=None, description="Type of weights and activations.", examples=["bfloat16"])
    kv_dtype: Dtype | None = Field(
        default=None, description="Type of the KV cache; `dtype` if left out.", examples=["fp8"]
    )
    parallel: ParallelSpec | None = Field(
        default=None,
        description="Parallel sizes of one worker; follow from `args` if left out.",
        examples=[{"tp": 2}],
    )
    gpus: Positive | None = Field(
        default=None, description="GPUs allotted to one worker; as many as it has ranks if left out.", examples=[8]
    )
    nodes_per_worker: Positive | None = Field(
        default=None, description="Nodes one worker spans; as few as hold its GPUs if left out.", examples=[2]
    )
    nodes: Positive | None = Field(default=None, description="Nodes that this component has for itself.", examples=[4])
    block_size: Positive | None = Field(default=None, description="Tokens of a KV block.", examples=[16])
    kv_blocks: Positive | None = Field(
        default=None, description="KV blocks of one worker; excludes `kv_memory`.", examples=[2048]
    )
    kv_memory: Size | None = Field(
        default=None, description="Memory for the KV blocks of one worker; excludes `kv_blocks`.", examples=["512 MiB"]
    )
    context_length: Positive | None = Field(
        default=None, description="Longest sequence, prompt and output together, in tokens.", examples=[4096]
    )
    max_batched_tokens: Positive | None = Field(default=None, description="Tokens of one engine step.", examples=[2048])
    max_sequences: Positive | None = Field(default=None, description="Sequences that run at once.", examples=[64])
    prefix_caching: bool | None = Field(default=None, description="Keep blocks for later requests.", examples=[True])
    cpus: Positive | None = Field(default=None, description="CPU cores of one worker.", examples=[4])
    ready_timeout: Duration | None = Field(
        default=None,
        description="How long its start may take; follows from weights and storage if left out.",
        examples=["20 min"],
    )
    args: dict[str, Any] | None = Field(
        default=None, description="The engine's own options, handed over as they are.", examples=[{"seed": 1}]
    )
    env: Environment | None = Field(
        default=None, description="Environment variables of the processes.", examples=[{"OMP_NUM_THREADS": "4"}]
    )


class WorkerSpec(WorkerFields):
    """A pool of workers."""

    role: Literal["prefill", "decode", "aggregated"] = Field(
        description="What the workers do; `aggregated` does both phases.", examples=["decode"]
    )


class FrontendSpec(Part):
    """The HTTP side, OpenAI's API."""

    role: Literal["frontend"] = Field(description="Serves HTTP.", examples=["frontend"])
    image: Text | None = Field(
        default=None, description="Container image of the frontend.", examples=["vllm/vllm-openai:v0.24.0"]
    )
    replicas: Replicas | None = Field(
        default=None, description="How many, on ports counted up from `port`.", examples=[1]
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port of the first replica.", examples=[8000]
    )
    max_body: Size | None = Field(default=None, description="Largest request body.", examples=["4 MiB"])
    max_concurrent_requests: Positive | None = Field(
        default=None, description="Requests in flight before more are refused.", examples=[4096]
    )
    request_timeout: Duration | None = Field(
        default=None, description="Longest life of a request, first byte to last token.", examples=["600 s"]
    )
    max_unread_tokens: Positive | None = Field(
        default=None, description="Tokens that may wait for a slow client before it is cut off.", examples=[8192]
    )
    stalled_client: Duration | None = Field(
        default=None, description="How long a client may read nothing before it is cut off.", examples=["60 s"]
    )
    router_wait: Duration | None = Field(
        default=None, description="How long a request waits for a lost router.", examples=["5 s"]
    )
    ready_timeout: Duration | None = Field(
        default=None, description="How long its start may take.", examples=["20 min"]
    )
    env: Environment | None = Field(
        default=None, description="Environment variables of the processes.", examples=[{"LANG": "C.UTF-8"}]
    )


class RouterSpec(Part):
    """Chooses the workers of a request."""

    role: Literal["router"] = Field(description="Chooses workers.", examples=["router"])
    policy: Literal["kv", "round_robin", "random", "least_loaded"] | None = Field(
        default=None,
        description="How workers are chosen; `kv` prefers those that hold the prompt's blocks.",
        examples=["kv"],
    )
    overlap_credit: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        default=None,
        description="Worth of a cached block, in blocks of prefill; only with policy `kv`.",
        examples=[1.0],
    )
    prefill_load_scale: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Weight of waiting prefill work; only with policy `kv`.", examples=[1.0]
    )
    temperature: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        default=None,
        description="Spreads choices of similar cost, 0 takes the best; only with policy `kv`.",
        examples=[0.0],
    )
    queue_capacity: Positive | None = Field(
        default=None, description="Requests that wait before more are refused.", examples=[1024]
    )
    queue_timeout: Duration | None = Field(default=None, description="Longest wait of a request.", examples=["60 s"])
    bypass_below_tokens: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Prompts with fewer uncached tokens are prefilled by the decode worker.",
        examples=[64],
    )
    ready_timeout: Duration | None = Field(
        default=None, description="How long its start may take.", examples=["20 min"]
    )
    env: Environment | None = Field(
        default=None, description="Environment variables of the process.", examples=[{"LANG": "C.UTF-8"}]
    )


class EdgeSpec(Part):
    """One edge, where more is to be said than who talks to whom."""

    from_: Text = Field(alias="from", description="Component that sends.", examples=["prefill"])
    to: Text = Field(description="Component that receives.", examples=["decode"])
    transport: Literal["shm", "tcp", "nvlink", "nixl", "mooncake", "ucx", "mpi", "lmcache"] | None = Field(
        default=None, description="How KV blocks move; chosen by placement if left out.", examples=["shm"]
    )


GroupOrName = Annotated[
    Annotated[Text, Tag("<name>")] | Annotated[list[Text], Tag("<group>")],
    Discriminator(lambda value: "<group>" if isinstance(value, list) else "<name>"),
]


class PlacementSpec(Part):
    """Wishes about nodes."""

    same_node: list[GroupOrName] | None = Field(
        default=None,
        description="Components that share a node: one list, or a list of lists.",
        examples=[["prefill", "decode"]],
    )
    reserve_nodes: Positive | None = Field(
        default=None,
        description="Nodes kept free of workers; frontends and the router are there.",
        examples=[1],
    )


class AllowSpec(Part):
    """A rule that is switched off."""

    code: Text = Field(description="Code of the rule, D3xx and up.", examples=["D301"])
    reason: Text = Field(
        description="Why; kept with the plan.", examples=["the nodes are larger than the inventory says"]
    )


def _role_tag(value: Any) -> str | None:
    """Which of the shapes of a component `role` asks for; None if it names none."""
    role = value.get("role") if isinstance(value, dict) else None
    return ROLES.get(role) if isinstance(role, str) else None


ROLES = {
    "frontend": "<frontend>",
    "router": "<router>",
    "cache": "<cache>",
    "prefill": "<worker>",
    "decode": "<worker>",
    "aggregated": "<worker>",
}
ComponentSpec = Annotated[
    Annotated[FrontendSpec, Tag("<frontend>")]
    | Annotated[RouterSpec, Tag("<router>")]
    | Annotated[CacheSpec, Tag("<cache>")]
    | Annotated[WorkerSpec, Tag("<worker>")],
    Discriminator(_role_tag),
]
EdgeText = Annotated[
    Annotated[Text, Tag("<chain>")] | Annotated[EdgeSpec, Tag("<edge>")],
    Discriminator(lambda value: "<edge>" if isinstance(value, dict | EdgeSpec) else "<chain>"),
]


class Spec(Part):
    """A pipeline for LLM inference: a model, components, and the edges between them."""

    dynamoc: Literal[1] = Field(description="Version of the spec language.", examples=[1])
    name: Name = Field(description="Name of the pipeline.", examples=["quickstart"])
    model: ModelSpec = Field(
        description="The model that is served.", examples=[{"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"}]
    )
    defaults: WorkerFields | None = Field(
        default=None,
        description="What holds for every worker that does not say otherwise.",
        examples=[{"block_size": 16}],
    )
    components: Annotated[dict[Name, ComponentSpec], Field(min_length=1)] = Field(
        description="Frontends, routers, pools of workers and their caches, by name.",
        examples=[{"frontend": {"role": "frontend", "port": 8000}}],
    )
    edges: Annotated[list[EdgeText], Field(min_length=1)] = Field(
        description="Who sends to whom: chains of names, or mappings.",
        examples=[["frontend -> router -> prefill -> decode"]],
    )
    placement: PlacementSpec | None = Field(
        default=None, description="Wishes about nodes.", examples=[{"same_node": ["prefill", "decode"]}]
    )
    load: LoadSpec | None = Field(
        default=None, description="The traffic that is expected.", examples=[{"isl": 8192, "osl": 1024}]
    )
    time_limit: TimeLimit | None = Field(
        default=None, description="How long the run may take.", examples=["4:00:00", "90 min"]
    )
    allow: list[AllowSpec] | None = Field(
        default=None,
        description="Rules that are switched off; they warn instead.",
        examples=[[{"code": "D301", "reason": "the inventory is out of date"}]],
    )


TAGS: dict[str, type[BaseModel]] = {
    "<frontend>": FrontendSpec,
    "<router>": RouterSpec,
    "<cache>": CacheSpec,
    "<worker>": WorkerSpec,
    "<edge>": EdgeSpec,
}
PARTS: dict[str, type[BaseModel]] = {
    "model": ModelSpec,
    "defaults": WorkerFields,
    "placement": PlacementSpec,
    "load": LoadSpec,
    "allow": AllowSpec,
}


def part_at(location: tuple[str | int, ...]) -> type[BaseModel]:
    """The model of the mapping at a location of a validation error, tags included."""
    match location:
        case ():
            return Spec
        case ("components" | "edges", _, str(tag)):
            return TAGS[tag]
        case (_, *_, "parallel"):
            return ParallelSpec
        case (*_, "tiers"):
            return TiersSpec
        case (*_, "tiers", "disk"):
            return DiskTierSpec
        case (*_, "tiers", "object"):
            return ObjectTierSpec
    return PARTS[str(location[0])]


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec file."""
    return schema_of(Spec, "dynamoc spec")
