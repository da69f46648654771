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
    "D204": "unknown engine",
    "D205": "nothing is known of the model",
    "D206": "a rule that cannot be waived",
    "D207": "a waiver that waives nothing",
    "D210": "no frontend",
    "D211": "no router",
    "D212": "more than one router",
    "D213": "an edge between components that do not talk",
    "D214": "an edge with two transports",
    "D215": "a worker that no request reaches",
    "D216": "a frontend or router that leads nowhere",
    "D217": "prefill workers without decode workers",
    "D218": "decode workers without prefill workers",
    "D219": "aggregated workers beside prefill or decode workers",
    # capacity and topology
    "D301": "a worker larger than any node",
    "D302": "workers that do not fit the cluster",
    "D303": "components that do not fit one node together",
    "D304": "more CPU cores than a node has",
    "D305": "more host memory than a node has",
    "D306": "shared memory across nodes",
    "D307": "different transports at one worker",
    "D310": "two frontends on one port",
    "D311": "a privileged port",
    "D312": "no port left",
    "D320": "a load longer than the context",
    "D321": "a load larger than the KV pool",
    "D322": "a KV pool smaller than the context",
    # targets
    "D401": "more nodes than the target holds",
    # engines
    "D501": "a device the engine does not run on",
    "D502": "a parallelism the engine does not have",
    "D503": "heads that do not divide",
    "D504": "KV heads that do not divide",
    "D505": "more pipeline stages than layers",
    "D506": "a block size the engine does not have",
    "D507": "a dtype the engine does not compute in",
    "D508": "a dtype the engine does not keep KV in",
    "D509": "a context longer than the model's",
    "D510": "a KV pool of unknown size",
    "D511": "an argument the engine does not have",
    "D512": "expert parallelism that does not divide",
    "D513": "an environment variable that is not the user's",
    "D520": "prefill and decode that disagree",
}

NEVER_WAIVED = frozenset({"D301", "D302", "D303", "D310", "D312", "D401", "D510"})
"""Rules of D3xx and up without which there is no plan: a waiver could not be kept."""
