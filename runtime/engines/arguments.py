"""The free `args` of an engine, made strict: a misspelt or mistyped one is an error that lists what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

Arguments = TypeVar("Arguments", bound=msgspec.Struct)


def read_arguments(engine: str, args: Mapping[str, object], type_: type[Arguments]) -> Arguments:
    """`args` as the engine's own struct; ValueError says what is wrong."""
    known = type_.__struct_fields__
    unknown = sorted(set(args) - set(known))
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        raise ValueError(f"engine `{engine}` has no argument {names}; it knows: {', '.join(known) or 'none'}")
    try:
        return msgspec.convert(dict(args), type_)
    except msgspec.ValidationError as error:
        raise ValueError(f"engine `{engine}`: wrong argument: {error}") from error
