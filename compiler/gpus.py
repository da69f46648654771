"""The GPUs we know, from `specs/gpus.yaml`: each value stands there with its source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from dynamoc.compiler.source import read_source
from dynamoc.compiler.units import parse_size

TABLE = Path(__file__).parent.parent / "specs/gpus.yaml"
TERA = 10**12
_WORDS = re.compile(r"[^a-z0-9]+")
_NOISE = frozenset({"nvidia", "amd", "instinct", "gpu", "tensor", "core"})
SIZES = ("memory", "bandwidth", "nvlink", "pcie")
RATES = ("bf16", "fp8", "fp4")


class Gpu(msgspec.Struct, frozen=True):
    """One kind of GPU. Rates are dense; links count both directions; 0 is what it does not have."""

    kind: str
    names: tuple[str, ...]
    memory: int
    """Bytes, as the driver reports them."""
    bandwidth: int
    """Of its memory, bytes a second."""
    pcie: int
    nvlink_domain: int
    """GPUs that reach each other over NVLink, itself among them."""
    nvlink: int = 0
    bf16: float = 0.0
    """FLOP/s, as `fp8` and `fp4`."""
    fp8: float = 0.0
    fp4: float = 0.0
    compute_capability: str | None = None


class GpuTableError(ValueError):
    """A table of GPUs that does not say what it must."""


@cache
def known_gpus() -> Mapping[str, Gpu]:
    """The table of this package, by kind."""
    return read_gpus(TABLE.read_text())


def read_gpus(text: str) -> dict[str, Gpu]:
    """A table of GPUs; GpuTableError names what is missing or has no source."""
    data = read_source(text, "gpus.yaml").data
    sources = data.get("sources")
    if not isinstance(sources, dict) or not isinstance(data.get("gpus"), dict):
        raise GpuTableError("`sources` and `gpus` are mappings")
    return {kind: _gpu(kind, facts, sources) for kind, facts in data["gpus"].items()}


def find_gpu(name: str | None) -> Gpu | None:
    """The GPU that a scheduler, a driver or a person means: `h200`, `NVIDIA-H100-80GB-HBM3`, `GB200`."""
    return None if name is None else _by_words().get(_folded(name))


@cache
def _by_words() -> Mapping[frozenset[str], Gpu]:
    return {_folded(spelling): gpu for gpu in known_gpus().values() for spelling in (gpu.kind, *gpu.names)}


def _folded(name: str) -> frozenset[str]:
    """The words of a name, in any order and spelling, without the maker's."""
    return frozenset(_WORDS.split(name.lower())) - _NOISE - {""}


def _gpu(kind: str, facts: Mapping[str, Any], sources: Mapping[str, Any]) -> Gpu:
    known = set(Gpu.__struct_fields__) - {"kind"}
    strange = sorted(set(facts) - known)
    if strange:
        raise GpuTableError(f"{kind}: unknown {', '.join(strange)}")
    values: dict[str, Any] = {"names": tuple(facts.get("names", ()))}
    for name, pair in facts.items():
        if name == "names":
            continue
        if not isinstance(pair, list) or len(pair) != 2 or pair[1] not in sources:
            raise GpuTableError(f"{kind}: `{name}` is a value and a source")
        values[name] = _value(kind, name, pair[0])
    missing = {"memory", "bandwidth", "pcie", "nvlink_domain"} - set(values)
    if missing:
        raise GpuTableError(f"{kind}: no {', '.join(sorted(missing))}")
    return Gpu(kind, **values)


def _value(kind: str, name: str, value: Any) -> int | float | str:
    if name in SIZES:
        try:
            return parse_size(value)
        except ValueError as error:
            raise GpuTableError(f"{kind}: `{name}`: {error}") from error
    if name == "compute_capability":
        return str(value)
    if not isinstance(value, int | float) or value <= 0:
        raise GpuTableError(f"{kind}: `{name}` is not a positive number")
    return value * TERA if name in RATES else int(value)
