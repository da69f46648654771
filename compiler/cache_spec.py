"""What may be written of a cache: the KV tiers below the device, of each worker that is connected to it."""

from typing import Literal

from pydantic import Field

from dynamoc.compiler.written import Part, Size, Text


class DiskTierSpec(Part):
    """G3: a folder on each worker's node."""

    path: Text = Field(description="Folder on the nodes, absolute.", examples=["/scratch/kv"])
    size: Size = Field(description="What one worker keeps there.", examples=["2 TiB"])


class ObjectTierSpec(Part):
    """G4: objects that all workers share."""

    url: Text = Field(
        description="Where objects are: s3://bucket/prefix, or file:///folder.", examples=["s3://bucket/kv"]
    )
    size: Size | None = Field(
        default=None, description="What all workers together keep there; no bound if left out.", examples=["10 TiB"]
    )


class TiersSpec(Part):
    """Tiers from the fastest to the largest; one that is left out is not there."""

    host: Size | None = Field(
        default=None, description="G2: host memory of one worker, for blocks that left its device.", examples=["64 GiB"]
    )
    disk: DiskTierSpec | None = Field(
        default=None,
        description="G3: local disk of one worker.",
        examples=[{"path": "/scratch/kv", "size": "2 TiB"}],
    )
    object: ObjectTierSpec | None = Field(
        default=None, description="G4: an object store.", examples=[{"url": "s3://bucket/kv", "size": "10 TiB"}]
    )


class CacheSpec(Part):
    """KV tiers of the workers that have an edge to it. It has no process: each worker keeps its own."""

    role: Literal["cache"] = Field(description="Keeps KV blocks.", examples=["cache"])
    tiers: TiersSpec = Field(
        description="Host and disk sizes are of each worker connected to it; objects are shared.",
        examples=[{"host": "64 GiB", "disk": {"path": "/scratch/kv", "size": "2 TiB"}}],
    )
    admission: Literal["all", "frequent"] | None = Field(
        default=None,
        description="Which blocks go down a tier: `all`, or those seen before (`frequent`, if left out).",
        examples=["frequent"],
    )
