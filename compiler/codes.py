"""Every error code and its title. Each has a page in docs/errors, which is also a test."""

from __future__ import annotations

from collections.abc import Mapping

CODES: Mapping[str, str] = {
    "D101": "the text is not YAML",
    "D102": "a key is written twice",
    "D103": "the text is not UTF-8",
    "D104": "the file holds several documents",
    "D105": "a YAML feature that specs do not use",
    "D106": "a key is not a string",
    "D107": "an alias that cannot be expanded",
    "D108": "the text is nested too deeply or too large",
    "D109": "the file is empty or not a mapping",
    "D110": "unknown field",
    "D111": "missing field",
    "D112": "a value of the wrong type",
    "D113": "a value that is not allowed",
    "D114": "a malformed size or duration",
    "D115": "fields that exclude each other",
    "D116": "a field without effect",
    "D117": "unsupported version of the spec language",
    "D120": "nodes of a cluster share a name",
    # from here on: names and references
    "D201": "unknown component",
    "D202": "malformed edge",
    "D203": "a transport on an edge that moves no KV",
    "D204": "unknown or unavailable engine",
    "D205": "nothing is known of the model",
    "D206": "a rule that cannot be waived",
    "D207": "a waiver that waives nothing",
}
