"""Engines whose own servers our plane can speak for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from dynamoc.runtime.served.api import Api

APIS: Mapping[str, str] = {
    "vllm": "dynamoc.runtime.served.vllm",
    "sglang": "dynamoc.runtime.served.sglang",
    "trtllm": "dynamoc.runtime.served.trtllm",
}


def api_of(engine: str) -> Api:
    """The API of a registered engine; ValueError if there is none."""
    if engine not in APIS:
        raise ValueError(f"no API for engine `{engine}`; there are: {', '.join(sorted(APIS))}")
    found: Api = importlib.import_module(APIS[engine]).API
    return found
