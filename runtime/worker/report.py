"""The echo report: what this process sees of its place, for a test to hold against the plan."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from dynamoc.runtime.process import Context


class Report(msgspec.Struct, frozen=True):
    """`reports/<process>.json`. `ports` are those bound; `gpus` is CUDA_VISIBLE_DEVICES as it was found."""

    name: str
    component: str
    role: str
    replica: int
    node: int
    ranks: tuple[int, ...]
    gpus: str | None
    ports: Mapping[str, int]
    pid: int
    incarnation: int
    router_registered: bool
    prefill_workers: tuple[str, ...]
    decode_workers: tuple[str, ...]


def write_report(
    context: Context,
    ports: Mapping[str, int],
    *,
    registered: bool,
    prefill_workers: Iterable[str],
    decode_workers: Iterable[str],
) -> None:
    """Replace the report of this process; a reader sees the old one or the new one."""
    spec = context.spec
    report = Report(
        name=spec.name,
        component=spec.component,
        role=spec.role,
        replica=spec.replica,
        node=spec.node,
        ranks=spec.ranks,
        gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        ports=ports,
        pid=os.getpid(),
        incarnation=context.incarnation,
        router_registered=registered,
        prefill_workers=tuple(sorted(prefill_workers)),
        decode_workers=tuple(sorted(decode_workers)),
    )
    folder = context.run_dir / "reports"
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{spec.name}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    temporary.replace(Path(folder / f"{spec.name}.json"))
