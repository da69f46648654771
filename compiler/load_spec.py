"""The load of a spec: exactly what may be written in it."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from dynamoc.compiler.written import Part, Positive, Text

Concurrency = Annotated[
    Annotated[Positive, Tag("<number>")] | Annotated[list[Positive], Field(min_length=1), Tag("<numbers>")],
    Discriminator(lambda value: "<numbers>" if isinstance(value, list) else "<number>"),
]
RequestRate = Annotated[
    Annotated[Literal["inf"], Tag("<word>")] | Annotated[float, Field(ge=0.000001, le=1_000_000_000), Tag("<rate>")],
    Discriminator(lambda value: "<word>" if isinstance(value, str) else "<rate>"),
]
Stddev = Annotated[float, Field(ge=0, le=1_000_000)]
Speed = Annotated[float, Field(ge=0.000001, le=1_000_000)]
Warmup = Annotated[int, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Tool = Literal["builtin", "aiperf"]


class LoadSpec(Part):
    """The traffic that is expected."""

    isl: Positive = Field(description="Input sequence length, tokens.", examples=[8192])
    osl: Positive = Field(description="Output sequence length, tokens.", examples=[1024])
    isl_stddev: Stddev | None = Field(
        default=None, description="Standard deviation of the input lengths, tokens; 0 if left out.", examples=[64]
    )
    osl_stddev: Stddev | None = Field(
        default=None, description="Standard deviation of the output lengths, tokens; 0 if left out.", examples=[16]
    )
    concurrency: Concurrency | None = Field(
        default=None, description="Requests in flight: one number, or those of a sweep.", examples=[[4, 16, 64]]
    )
    concurrency_per_gpu: Annotated[float, Field(ge=0.001, le=1_000_000)] | None = Field(
        default=None, description="Requests in flight for every GPU of the workers.", examples=[16]
    )
    request_rate: RequestRate | None = Field(
        default=None, description="Requests per second, or `inf`.", examples=["inf"]
    )
    trace: Text | None = Field(
        default=None,
        description="Requests of a trace in Mooncake's format, a file; `isl` and `osl` then bound their lengths.",
        examples=["trace.jsonl"],
    )
    trace_speed: Speed | None = Field(
        default=None, description="How many times faster than recorded; 1 if left out.", examples=[2]
    )
    trace_block_tokens: Positive | None = Field(
        default=None, description="Tokens that each hash of the trace stands for; 512 if left out.", examples=[512]
    )
    requests: Positive | None = Field(
        default=None,
        description="Requests of one load point; 10 for each in flight, or all of a trace, if left out.",
        examples=[160],
    )
    warmup_requests: Warmup | None = Field(
        default=None, description="Requests before those that count; one for each in flight if left out.", examples=[4]
    )
    shared_prefix: Share | None = Field(
        default=None, description="Share of each prompt that is the same in all of them; 0 if left out.", examples=[0.5]
    )
    prefixes: Positive | None = Field(
        default=None,
        description="Groups of prompts, each with a shared prefix of its own; 1 if left out.",
        examples=[8],
    )
    seed: Seed | None = Field(default=None, description="Of prompts and arrival times; 0 if left out.", examples=[7])
    tool: Tool | None = Field(
        default=None, description="What makes the requests; `builtin` if left out.", examples=["builtin"]
    )
