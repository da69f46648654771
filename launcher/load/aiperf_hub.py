"""A model folder's tokenizer as AIPerf finds it whatever it does: in the layout of a hub's cache, offline.

Given as a path, the processes that it starts to decode traces take it for a name on a hub and fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dynamoc.launcher.load.point import LoadError

NAME = "local/model"
REVISION = "0" * 40
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def lay_out(tokenizer: Path, hub: Path) -> None:
    """Links to all but the weights; LoadError where there is no tokenizer."""
    if not (tokenizer / "tokenizer.json").is_file():
        raise LoadError(f"no tokenizer in {tokenizer}")
    model = hub / "models--local--model"
    snapshot = model / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(REVISION)
    for file in sorted(tokenizer.iterdir()):
        if file.is_file() and file.suffix not in WEIGHTS:
            (snapshot / file.name).symlink_to(file.resolve())


def hub_environment(environ: Mapping[str, str], hub: Path) -> dict[str, str]:
    """Nothing is fetched, and the cache is ours alone."""
    return {**environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
