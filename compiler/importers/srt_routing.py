"""Frontends and routing of an srt-slurm recipe: what our frontend and router can say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoc.compiler.importers.recipe import Fields, as_number, text_of, without_nothing

DEFAULT_ADDITIONAL = 9
POLICIES = {
    "kv": "kv",
    "round-robin": "round_robin",
    "round_robin": "round_robin",
    "random": "random",
    "cache_aware": "kv",
    "least-loaded": "least_loaded",
    "power_of_two": "least_loaded",
}
"""Words of `router-mode` and `policy`, and ours."""
LARGEST_WEIGHT = 1_000_000
KV_OPTIONS = {"router-temperature": "temperature", "router-kv-overlap-score-weight": "overlap_credit"}


def frontend_of(fields: Fields, nodes: int, env: Mapping[str, str]) -> dict[str, Any]:
    """As many frontends as the recipe starts: the additional ones only where it lets there be several."""
    several = fields.take("frontend", "enable_multiple_frontends", default=True) is not False
    additional = fields.take_count("frontend", "num_additional_frontends")
    replicas = 1 + (DEFAULT_ADDITIONAL if additional is None else additional) if several else 1
    own = fields.take_env("frontend", "env")
    frontend = {
        "role": "frontend",
        "replicas": min(replicas, max(nodes, 1)),
        "image": fields.take_text("frontend", "container_image"),
        "env": {**env, **own},
    }
    return without_nothing(frontend)


def router_of(fields: Fields) -> dict[str, Any]:
    """Policy, and with the policy `kv` its weights; every other option of the recipe's router stays unmapped."""
    policy = "round_robin"
    for name in ("router-mode", "policy"):
        written = fields.get("frontend", "args", name)
        if isinstance(written, str) and written in POLICIES:
            policy = POLICIES[text_of(fields.take("frontend", "args", name))]
    router: dict[str, Any] = {"role": "router", "policy": policy}
    for name, ours in KV_OPTIONS.items() if policy == "kv" else ():
        number = as_number(fields.get("frontend", "args", name))
        if number is not None and number <= LARGEST_WEIGHT:
            fields.take("frontend", "args", name)
            router[ours] = number
    return router
