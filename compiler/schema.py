"""JSON schemas of our files, for editors: they say what may be written as the compiler reads it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def schema_of(shape: type[BaseModel], title: str) -> dict[str, Any]:
    """Of a file of this shape."""
    schema = shape.model_json_schema(by_alias=True)
    _close(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def _close(schema: Any) -> None:
    """Keys that do not match the pattern of a mapping are refused, not ignored."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema["additionalProperties"] = False
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        _close(part)
