"""Runs in the environment of aiconfigurator, never imported: questions as JSON on stdin, answers as JSON on stdout."""

from __future__ import annotations

import json
import math
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

DISAGGREGATED = {"prefill": 0.9, "decode": 0.92}
"""How much of the rate of each pool it counts on."""
FORMATS = ("gemm", "kvcache", "fmha", "moe")


def main() -> None:
    """Answer everything; what the library prints goes to stderr."""
    try:
        release = version("aiconfigurator")
    except PackageNotFoundError:
        sys.exit(f"{sys.prefix} has no aiconfigurator in it; `make aiconfigurator` makes an environment that does")
    sys.addaudithook(_stay_offline)
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        questions = json.load(sys.stdin)
        answers = [_answer(question) for question in questions]
        json.dump({"release": release, "answers": answers}, out, allow_nan=False)


def _stay_offline(event: str, _: tuple[Any, ...]) -> None:
    """It would fetch the config.json of a model that it does not know, with the user's token."""
    if event in ("socket.getaddrinfo", "socket.connect"):
        raise OSError("the network is not used here")


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from aiconfigurator.cli.api import cli_estimate

    try:
        return {"id": question["id"], **_figures(cli_estimate(**_words(question)), question)}
    except Exception as error:  # noqa: BLE001  # it raises many kinds for what it does not know, and the next may do
        return {"id": question["id"], "refused": f"{type(error).__name__}: {error}"}


def _words(question: dict[str, Any]) -> dict[str, Any]:
    pool, prefill = question["pool"], question["prefill"]
    words = {
        "model_path": question["model"],
        "system_name": pool["system"],
        "backend_name": question["engine"],
        "backend_version": _version(pool["system"], question),
        "isl": question["isl"],
        "osl": question["osl"],
        "prefix": question["prefix"],
        "kvcache_quant_mode": question["kv_format"],
    }
    if prefill is None:
        return words | _sizes(pool, "") | {"ctx_tokens": question["context_tokens"]}
    words |= {"mode": "disagg", "system_name": prefill["system"], "decode_system_name": pool["system"]}
    words |= {"prefill_num_workers": prefill["workers"], "decode_num_workers": pool["workers"]}
    return words | _sizes(prefill, "prefill_") | _sizes(pool, "decode_")


def _sizes(pool: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = {
        "tp_size": "tp",
        "pp_size": "pp",
        "attention_dp_size": "dp",
        "moe_tp_size": "moe_tp",
        "moe_ep_size": "moe_ep",
        "batch_size": "batch",
    }
    return {prefix + theirs: pool[ours] for theirs, ours in names.items()}


def _version(system: str, question: dict[str, Any]) -> str | None:
    """The version that is asked for where it has data of it, else its current one."""
    from aiconfigurator_core.sdk.perf_database import get_version_slots

    slots = get_version_slots(system, question["engine"]) or {}
    return question["version"] if question["version"] in slots.values() else slots.get("current")


def _figures(result: Any, question: dict[str, Any]) -> dict[str, Any]:
    raw = result.raw
    disaggregated = question["prefill"] is not None
    first = "(p)" if disaggregated else ""
    rates = {
        role: float(raw[f"({role[0]})seq/s/worker"]) * raw[f"({role[0]})workers"] * share
        for role, share in (DISAGGREGATED.items() if disaggregated else ())
    }
    latencies = {
        "ttft_ms": float(result.ttft),
        "tpot_ms": float(result.tpot),
        "request_ms": float(result.request_latency),
    }
    for name, value in (latencies | rates).items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} would be {value}")
    return {
        **latencies,
        "rates": rates,
        "version": str(result.backend_version),
        "formats": {name: str(raw[first + name]) for name in FORMATS},
        "warning": result.kv_cache_warning,
    }


if __name__ == "__main__":
    main()
