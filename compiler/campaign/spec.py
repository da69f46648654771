"""Campaign file: exactly what may be written in it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from dynamoc.compiler.load_spec import Seed, Share, Speed, Stddev, Tool, Warmup
from dynamoc.compiler.schema import schema_of
from dynamoc.compiler.written import Duration, Name, Part, Positive, Text

Number = int | float
Values = Annotated[list[Any], Field(min_length=1)]
Rows = Annotated[list[dict[Text, Any]], Field(min_length=1)]
Expression = Text


class RangeSpec(Part):
    """What a random axis draws from: a list, or whole numbers or numbers between two bounds."""

    any_of: Values | None = Field(default=None, description="One of these.", examples=[[1, 2, 4]])
    min: Number | None = Field(default=None, description="Lowest number.", examples=[1])
    max: Number | None = Field(default=None, description="Highest number.", examples=[64])
    log: bool | None = Field(default=None, description="Draw exponents, not numbers.", examples=[True])
    integer: bool | None = Field(
        default=None, description="Whole numbers; as the bounds are if left out.", examples=[True]
    )


class DrawSpec(Part):
    """Seeded draws of several names at once."""

    count: Annotated[int, Field(ge=1, le=100_000)] = Field(description="How many.", examples=[32])
    seed: Seed | None = Field(default=None, description="Of the draws; 0 if left out.", examples=[7])
    of: Annotated[dict[Text, RangeSpec], Field(min_length=1)] = Field(
        description="What each name is drawn from.", examples=[{"batch": {"min": 1, "max": 64}}]
    )


class AxisSpec(Part):
    """One axis, of exactly one kind. Names with a dot in them are fields of the base spec, others are variables."""

    path: Text | None = Field(
        default=None, description="Field of the spec that gets the values.", examples=["defaults.block_size"]
    )
    values: Values | None = Field(default=None, description="Its values.", examples=[[16, 32]])
    zip: Annotated[dict[Text, Values], Field(min_length=1)] | None = Field(
        default=None, description="Names whose lists are walked together.", examples=[{"batch": [1, 2], "mtp": [3, 1]}]
    )
    list: Rows | None = Field(
        default=None, description="Rows, each with a value for some names.", examples=[[{"batch": 1, "mtp": 3}]]
    )
    variants: Annotated[dict[Text, dict[Text, Any]], Field(min_length=1)] | None = Field(
        default=None,
        description="Named rows; the axis itself has their names as values.",
        examples=[{"small": {"components.decode.replicas": 1}}],
    )
    random: DrawSpec | None = Field(
        default=None,
        description="Independent draws.",
        examples=[{"count": 8, "seed": 1, "of": {"batch": {"min": 1, "max": 64}}}],
    )
    latin: DrawSpec | None = Field(
        default=None,
        description="A Latin hypercube: every name meets each of `count` equal slices once.",
        examples=[{"count": 8, "seed": 1, "of": {"batch": {"min": 1, "max": 64}}}],
    )


AxisOrValues = Annotated[
    Annotated[Values, Tag("<values>")] | Annotated[AxisSpec, Tag("<axis>")],
    Discriminator(lambda value: "<values>" if isinstance(value, list) else "<axis>"),
]


class SearchSpec(Part):
    """The largest concurrency under the SLA, by doubling and bisection."""

    min: Positive | None = Field(default=None, description="Where it starts; 1 if left out.", examples=[1])
    max: Positive = Field(description="Where it ends.", examples=[1024])


Counts = Annotated[list[Positive], Field(min_length=1)]
Rates = Annotated[list[Annotated[float, Field(ge=0.000001, le=1_000_000_000)]], Field(min_length=1)]


def _count_tag(value: Any) -> str:
    kinds = {list: "<numbers>", str: "<expression>"}
    return next((tag for kind, tag in kinds.items() if isinstance(value, kind)), "<number>")


Count = Annotated[
    Annotated[Positive, Tag("<number>")] | Annotated[Expression, Tag("<expression>")], Discriminator(_count_tag)
]
CountOrCounts = Annotated[
    Annotated[Positive, Tag("<number>")]
    | Annotated[Counts, Tag("<numbers>")]
    | Annotated[Expression, Tag("<expression>")],
    Discriminator(_count_tag),
]
RateOrRates = Annotated[
    Annotated[float, Field(ge=0.000001, le=1_000_000_000), Tag("<number>")]
    | Annotated[Rates, Tag("<numbers>")]
    | Annotated[Expression, Tag("<expression>")],
    Discriminator(_count_tag),
]


class CampaignLoadSpec(Part):
    """One load, or a ladder of them: numbers, or expressions over the variables of the axes."""

    isl: Count = Field(description="Input sequence length, tokens.", examples=[1024])
    osl: Count = Field(description="Output sequence length, tokens.", examples=[128])
    isl_stddev: Stddev | None = Field(
        default=None, description="Standard deviation of the input lengths, tokens; 0 if left out.", examples=[64]
    )
    osl_stddev: Stddev | None = Field(
        default=None, description="Standard deviation of the output lengths, tokens; 0 if left out.", examples=[16]
    )
    concurrency: CountOrCounts | None = Field(
        default=None, description="Requests in flight: a number, a list, or an expression.", examples=[[1, 4, 16]]
    )
    request_rate: RateOrRates | None = Field(
        default=None, description="Requests per second: a number, a list, or an expression.", examples=[[0.5, 1]]
    )
    search: SearchSpec | None = Field(
        default=None,
        description="Search the largest concurrency under the SLA instead of naming some.",
        examples=[{"max": 256}],
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
    requests: Count | None = Field(
        default=None,
        description="Requests of one point; 10 for each in flight, or all of a trace, if left out.",
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


class BudgetSpec(Part):
    """What a campaign may take. Where it is used up, nothing further is started."""

    gpu_hours: Annotated[float, Field(ge=0.000001, le=1_000_000_000)] | None = Field(
        default=None, description="GPU-hours, of allocated GPUs from start to end.", examples=[100]
    )
    wall_time: Duration | None = Field(
        default=None, description="From the first start on, pauses between resumes left out.", examples=["8 h"]
    )
    retries: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="Further attempts of a deployment that failed for a passing cause.", examples=[2]
    )
    at_once: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="Deployments at a time; 1 if left out.", examples=[4]
    )


class CampaignSpec(Part):
    """A campaign: a base spec, axes that change it, and loads."""

    dynamoc: Literal[1] = Field(description="Version of the spec language.", examples=[1])
    campaign: Name = Field(description="Name of the campaign.", examples=["quickstart"])
    base: Annotated[
        Annotated[Text, Tag("<file>")] | Annotated[dict[str, Any], Tag("<spec>")],
        Discriminator(lambda value: "<spec>" if isinstance(value, dict) else "<file>"),
    ] = Field(description="The spec that the axes change: a file, or the spec itself.", examples=["spec.yaml"])
    cluster: Text | None = Field(
        default=None, description="Inventory to prove the points against: a file.", examples=["cluster.yaml"]
    )
    target: Literal["local", "slurm", "simulated"] | None = Field(
        default=None, description="Where the points run; `local` if left out.", examples=["simulated"]
    )
    axes: dict[Text, AxisOrValues] | None = Field(
        default=None,
        description="What varies: every combination of all axes. A plain list is the values of a name.",
        examples=[{"defaults.block_size": [16, 32]}],
    )
    derive: dict[Text, Any] | None = Field(
        default=None,
        description="Variables that follow from others, by expressions.",
        examples=[{"tokens": "batch * (mtp + 1)"}],
    )
    set: dict[Text, Any] | None = Field(
        default=None,
        description="Fields of the spec that get the values of expressions; with the value None they stay as they are.",
        examples=[{"components.decode.max_sequences": "batch"}],
    )
    where: list[Expression] | None = Field(
        default=None, description="What must hold of a combination, else it is pruned.", examples=[["p + d <= 8"]]
    )
    expect: list[Expression] | None = Field(
        default=None,
        description="What should hold of a combination; where it does not, it is run, and said.",
        examples=[["tokens == batch * (mtp + 1)"]],
    )
    loads: Annotated[list[CampaignLoadSpec], Field(min_length=1)] = Field(
        description="What every deployment is put under.", examples=[[{"isl": 128, "osl": 32, "concurrency": [1, 4]}]]
    )
    repeats: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="How often each point is measured; 1 if left out.", examples=[3]
    )
    sla: list[Text] | None = Field(
        default=None, description="What a point should keep to.", examples=[["ttft_ms@p99 <= 500"]]
    )
    stop: Literal["first_breach"] | None = Field(
        default=None,
        description="Leave out the heavier loads of a deployment once one breaches the SLA.",
        examples=["first_breach"],
    )
    budget: BudgetSpec | None = Field(default=None, description="Limits.", examples=[{"retries": 1}])


def json_schema() -> dict[str, Any]:
    """The JSON schema of a campaign file."""
    return schema_of(CampaignSpec, "dynamoc campaign")


def part_at(location: tuple[str | int, ...]) -> type[BaseModel]:
    """The model of the mapping at a location of a validation error, tags included."""
    match location:
        case ("axes", _, _, "random" | "latin"):
            return DrawSpec
        case ("axes", _, _, "random" | "latin", "of", _):
            return RangeSpec
        case ("axes", _, _):
            return AxisSpec
        case ("loads", _, "search"):
            return SearchSpec
        case ("loads", *_):
            return CampaignLoadSpec
        case ("budget", *_):
            return BudgetSpec
    return CampaignSpec
