"""The types of what may be written in our files: names, sizes, durations; and the mapping that they stand in."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from dynamoc.compiler.units import (
    DURATION,
    SIZE,
    TIME_LIMIT,
    as_written,
    parse_duration,
    parse_size,
    parse_time_limit,
)

NAME = r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"

Written = Annotated[str, BeforeValidator(as_written), WithJsonSchema({"type": ["string", "number"]})]
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema({"type": "string", "pattern": SIZE})]
Duration = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "pattern": DURATION})]
TimeLimit = Annotated[
    float, BeforeValidator(parse_time_limit), WithJsonSchema({"type": "string", "pattern": TIME_LIMIT})
]
Dtype = Literal["bfloat16", "float16", "float32", "fp8", "float8_e4m3fn", "float8_e5m2"]
Precision = Literal["fp32", "bf16", "fp16", "fp8", "mxfp8", "int8", "fp4", "nvfp4", "mxfp4", "int4"]
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Replicas = Annotated[int, Field(ge=1, le=10_000)]
Environment = dict[Annotated[str, Field(pattern=VARIABLE)], Written]
Name = Annotated[str, Field(pattern=NAME)]
Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A mapping of a file: no unknown field, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)
