"""What is known of models: geometry from a card of ours or from a model's config.json, handed in as texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.formats import read_formats, uniform
from dynamoc.compiler.geometry import BITS, PARTS, Geometry
from dynamoc.compiler.model_config import FAMILIES, layer_count, mtp_layers, stack_of
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.source import read_source

_KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocabulary": "vocab_size",
    "context_length": "max_position_embeddings",
    "intermediate": "intermediate_size",
}
"""Our words and those of a config.json; a card may use either."""
DIGEST_BYTES = 16


class ModelTextError(ValueError):
    """A card or config.json that does not say what it must; the message says what is wrong."""


class ModelLibrary(msgspec.Struct, frozen=True):
    """Texts by `ref` or `path` of a model. The compiler looks nowhere else."""

    texts: Mapping[str, str] = {}
    provenance: Mapping[str, str] = {}
    """What the folder of a model says of where its files come from, as text."""
    _read: dict[str, Geometry] = {}
    """What was read of the texts: a sweep asks for the same model many times."""

    def geometry(self, *names: str | None) -> Geometry | None:
        """What the first known of `names` says; None if none is known, ModelTextError if its text is wrong."""
        for name in names:
            if name is not None and name in self.texts:
                if name not in self._read:
                    self._read[name] = read_geometry(self.texts[name], self.texts)
                return self._read[name]
        return None

    def digest(self, *names: str | None) -> str | None:
        """A hash of what the first known of `names` says, and the card it is like; None if none is known."""
        text = next((self.texts[name] for name in names if name is not None and name in self.texts), None)
        if text is None:
            return None
        like = like_of(text)
        facts = [_data(text)] + ([] if like is None else [_data(self.texts[like])])
        return _digest(json.dumps(plain(facts), sort_keys=True))

    def folder_digest(self, *names: str | None) -> str | None:
        """A hash of the provenance of the first of `names` whose folder has one."""
        found = next((self.provenance[name] for name in names if name is not None and name in self.provenance), None)
        return None if found is None else _digest(found)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def like_of(text: str) -> str | None:
    """The model that a card refers to for its shape: it is needed beside the card."""
    for line in text.splitlines():
        if line.startswith("like:"):
            return line.removeprefix("like:").strip()
    return None


def read_geometry(text: str, others: Mapping[str, str] | None = None) -> Geometry:
    """Read a card or a config.json; ModelTextError. `others` holds the cards that a card may be `like`."""
    data = _data(text)
    like = data.get("like")
    if like is not None:
        base = (others or {}).get(like)
        if base is None or like_of(base) is not None:
            raise ModelTextError(f"there is no card of `{like}`")
        return replace(read_geometry(base), **_weights(data))
    config = _config(data)
    try:
        geometry = _geometry(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, ModelTextError):
            raise
        raise ModelTextError(f"the shape of its layers cannot be read ({error})") from error
    return replace(geometry, **_weights(data))


def _data(text: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = read_source(text, "model").data
    except CompileError as error:
        raise ModelTextError(str(error)) from error
    return data


def _config(data: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the language model, in the words of a config.json."""
    config = data.get("config", data)
    if not isinstance(config, dict):
        raise ModelTextError("`config` is not a mapping")
    inner = config.get("text_config", {})
    if not isinstance(inner, dict):
        raise ModelTextError("`text_config` is not a mapping")
    config = {**config, **inner}
    return {theirs: config[ours] for ours, theirs in _KEYS.items() if ours in config} | config


def _geometry(config: dict[str, Any]) -> Geometry:
    facts = {ours: config.get(theirs) for ours, theirs in _KEYS.items()}
    facts["layers"] = layer_count(config)
    facts["kv_heads"] = facts["kv_heads"] or facts["heads"]
    if facts["head_dim"] is None and _counts(facts, "hidden", "heads"):
        facts["head_dim"] = int(facts["hidden"] or 0) // int(facts["heads"] or 1)
    known = {name: int(value or 0) for name, value in facts.items() if _counts(facts, name)}
    lacking = [f"`{_KEYS[name]}`" for name in facts if name not in known and name != "intermediate"]
    if lacking:
        raise ModelTextError(f"no positive whole number for {', '.join(lacking)}")
    formats = read_formats(config)
    family = config.get("model_type")
    return Geometry(
        **known,
        stack=stack_of(config | {_KEYS[name]: known[name] for name in ("layers", "kv_heads", "head_dim")}),
        tied=bool(config.get("tie_word_embeddings")),
        mtp_layers=mtp_layers(config),
        formats=formats or {},
        exact=formats is not None and (family is None or family in FAMILIES),
    )


def _weights(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of the number formats, of elements beside the language model, and of a longer context."""
    said = {key: data[key] for key in ("extra", "context_length") if "config" in data or "like" in data if key in data}
    strange = [key for key, value in said.items() if not isinstance(value, int)]
    if strange:
        raise ModelTextError(f"no whole number for {', '.join(f'`{key}`' for key in strange)}")
    weights = data.get("weights")
    if isinstance(weights, str):
        weights = {"default": weights}
    if isinstance(weights, Mapping):
        said["formats"] = _formats(weights)
    return said


def _formats(weights: Mapping[str, Any]) -> dict[str, str]:
    """`default`, and the parts that differ from it."""
    strange = [str(value) for value in weights.values() if value not in BITS]
    strange += [key for key in weights if key not in (*PARTS, "default")]
    if strange:
        raise ModelTextError(f"`weights` does not know {', '.join(f'`{word}`' for word in strange)}")
    named = {part: str(kind) for part, kind in weights.items() if part != "default"}
    return (uniform(str(weights["default"])) if "default" in weights else {}) | named


def _counts(facts: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(facts[n], int) and not isinstance(facts[n], bool) and facts[n] > 0 for n in names)
