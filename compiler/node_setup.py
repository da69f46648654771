"""How the processes of a Slurm job get onto its nodes: interpreter, runtime, images and mounts, for the templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoc.compiler.containers import image_name, images, runtime_of
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.rendering import quote_path

ARCHIVE = "archive"


def node_setup(plan: Plan) -> dict[str, Any]:
    """What the templates name of it."""
    site = plan.cluster.site
    container = runtime_of(site)
    of_nodes = [] if container == "none" else [image_name(plan, node) or "" for node in range(plan.nodes)]
    names = list(dict.fromkeys(of_nodes))
    default = "${PYTHON:-python3}" if container == "none" else "python3"
    return {
        "runtime": site.get("runtime", "path" if container == "none" else "image"),
        "interpreter": quote_path(site["python"]) if "python" in site else f'"{default}"',
        "interpreter_name": site.get("python", default),
        "scratch": site.get("scratch"),
        "container": container,
        "images": images(plan, names),
        "image_of": [names.index(name) for name in of_nodes],
        "mounts": site.get("mounts", []),
        "model_root": plan.cluster.model_root,
        "model_paths": [path for path in (plan.graph.model.path,) if path is not None],
    }


def scripts(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The job's, and those that it calls."""
    imports: bool = any(image.source is not None for image in values["images"])
    carries: bool = values["runtime"] == ARCHIVE
    return ("import-image.sh",) * imports + ("job.sbatch",) + ("unpack.sh",) * carries
