"""What is known of models: geometry from a card of ours or from a model's config.json, handed in as texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.graph import Geometry
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
"""Our words and those of a config.json."""


class ModelTextError(ValueError):
    """A card or config.json that does not say what it must; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class ModelLibrary:
    """Texts by `ref` or `path` of a model. The compiler looks nowhere else."""

    texts: Mapping[str, str] = field(default_factory=dict)

    def geometry(self, *names: str | None) -> Geometry | None:
        """What the first known of `names` says; None if none is known, ModelTextError if its text is wrong."""
        for name in names:
            if name is not None and name in self.texts:
                return read_geometry(self.texts[name])
        return None


def read_geometry(text: str) -> Geometry:
    """Read a card (`layers: 30`) or a config.json (`"num_hidden_layers": 30`); ModelTextError."""
    try:
        data = read_source(text, "model").data
    except CompileError as error:
        raise ModelTextError(str(error)) from error
    data = data.get("text_config", data)
    if not isinstance(data, dict):
        raise ModelTextError("`text_config` is not a mapping")
    facts: dict[str, Any] = {ours: data.get(ours, data.get(theirs)) for ours, theirs in _KEYS.items()}
    facts["kv_heads"] = facts["kv_heads"] or facts["heads"]
    if facts["head_dim"] is None and _counts(facts, "hidden", "heads"):
        facts["head_dim"] = facts["hidden"] // facts["heads"]
    known = {name: int(value) for name, value in facts.items() if _counts(facts, name)}
    lacking = [f"`{_KEYS[name]}`" for name in facts if name not in known and name != "intermediate"]
    if lacking:
        raise ModelTextError(f"no positive whole number for {', '.join(lacking)}")
    return Geometry(**known)


def _counts(facts: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(facts[n], int) and not isinstance(facts[n], bool) and facts[n] > 0 for n in names)
