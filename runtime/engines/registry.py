"""Which engines there are. A runner is imported when its engine is made, so only `native` needs torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.native.protocol import Runner
from dynamoc.runtime.engines.protocol import Engine
from dynamoc.runtime.kv.tiers.identity import model_identity
from dynamoc.runtime.manifest import WorkerSettings

ENGINES: Mapping[str, str] = {
    "native": "dynamoc.runtime.engines.native.runner:TorchRunner",
    "mocker": "dynamoc.runtime.engines.mocker:MockRunner",
    "echo": "dynamoc.runtime.engines.echo:EchoRunner",
}


def make_engine(settings: WorkerSettings, model_folder: Path, model_name: str) -> Engine:
    """The engine the settings name, not yet loaded; ValueError if it is unknown, or its arguments are wrong."""
    if settings.engine not in ENGINES:
        raise ValueError(f"no engine `{settings.engine}`; there are: {', '.join(sorted(ENGINES))}")
    module, _, factory = ENGINES[settings.engine].partition(":")
    try:
        make = getattr(importlib.import_module(module), factory)
    except ImportError as error:
        raise ValueError(f"engine `{settings.engine}` cannot serve `{model_name}` here: {error}") from error
    runner: Runner = make(settings, model_folder)
    return CoreEngine(settings.engine, runner, settings, lambda: model_identity(model_name, model_folder))
