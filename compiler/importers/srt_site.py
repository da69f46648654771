"""What an srt-slurm recipe says of the site it runs at: it belongs into the cluster file."""

from __future__ import annotations

import re
from typing import Any

from dynamoc.compiler.importers.recipe import Fields, text_of, without_nothing

_MOUNT = re.compile(r"[^:\s]+:/[^:\s]+(:(ro|rw))?")


def site_of(fields: Fields) -> dict[str, Any]:
    """Partition, account, mounts and directives; a mount that is more than a folder stays unmapped."""
    site: dict[str, Any] = {name: fields.take_text("slurm", name) for name in ("partition", "account")}
    mounts: list[str] = []
    written = fields.get("extra_mount")
    for index, mount in enumerate(written if isinstance(written, list) else ()):
        if isinstance(mount, str) and _MOUNT.fullmatch(mount):
            mounts.append(fields.take("extra_mount", index))
    folders = fields.get("container_mounts")
    for source, target in folders.items() if isinstance(folders, dict) else ():
        fields.take("container_mounts", source)
        mounts.append(f"{source}:{text_of(target)}")
    directives: dict[str, Any] = {}
    options = fields.get("sbatch_directives")
    for name, value in options.items() if isinstance(options, dict) else ():
        if isinstance(value, str | int | float):
            fields.take("sbatch_directives", name)
            directives[name] = True if value == "" else value if isinstance(value, bool) else text_of(value)
    return without_nothing({**site, "mounts": mounts or None, "directives": directives})
