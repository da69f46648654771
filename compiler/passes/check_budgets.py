"""Budgets of tokens that an engine is given hold what its largest batch needs."""

from __future__ import annotations

from typing import Any

from dynamoc.compiler.diagnostics import Put, Remedy, Reporter
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.load import prompt_sum
from dynamoc.compiler.units import spell_count
from dynamoc.runtime.manifest import Role

DISPATCH = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
DISPATCH_DEFAULT = 128
MEGA_MOE = "SGLANG_OPT_USE_DEEPGEMM_MEGA_MOE"
MEGA_ROOM = "SGLANG_OPT_DEEPGEMM_MEGA_MOE_NUM_MAX_TOKENS_PER_RANK"
"""Experts and their exchange in one kernel, which takes the place of DeepEP; its default changes with versions."""


def check_budgets(graph: Graph, report: Reporter) -> Graph:
    """Warnings: D323 transfer buffers against prompts, D324 tokens of a decode step, D325 tokens that DeepEP sends."""
    for component in graph.components:
        options = component.worker
        if options is None:
            continue
        if graph.load is not None:
            _check_buffer(graph, component, options, report)
        if component.role is not Role.PREFILL:
            _check_step(component, options, report)
            _check_dispatch(component, options, report)
    return graph


def _check_buffer(graph: Graph, component: Component, options: WorkerOptions, report: Reporter) -> None:
    tokens = options.facts.get("transfer_tokens")
    assert graph.load is not None
    if component.role is Role.AGGREGATED or not isinstance(tokens, int) or tokens >= graph.load.longest_prompt:
        return
    path = component.where("transfer_tokens")
    report.warning(
        "D323",
        f"the transfer buffer of `{component.name}` does not hold a prompt of the load",
        (path, spell_count(tokens, "token")),
        (graph.load.at, "the load"),
        notes=[f"{prompt_sum(graph.load)} > {tokens}"],
        remedies=[Remedy((Put(path, graph.load.longest_prompt),))],
    )


def _check_step(component: Component, options: WorkerOptions, report: Reporter) -> None:
    """A sequence takes one token of a step, and one for each that was guessed."""
    facts = options.facts
    guessed = _count(facts.get("nextn")) or _count(facts.get("draft_tokens"))
    tokens, sequences = _count(facts.get("max_batched_tokens")), _count(facts.get("max_sequences"))
    if options.engine != "trtllm" or not tokens or not sequences or tokens >= sequences * (1 + guessed):
        return
    path, needed = component.where("max_batched_tokens"), sequences * (1 + guessed)
    report.warning(
        "D324",
        f"a step of `{component.name}` takes {spell_count(tokens, 'token')}, "
        f"its {spell_count(sequences, 'sequence')} {'needs' if sequences == 1 else 'need'} {needed}",
        (path, f"at least {needed}"),
        (component.where("max_sequences"), spell_count(sequences, "sequence")),
        notes=[f"{sequences} x (1 + {guessed}) = {needed} > {tokens}"],
        remedies=[Remedy((Put(path, needed),))],
    )


def _check_dispatch(component: Component, options: WorkerOptions, report: Reporter) -> None:
    """At most so many tokens of a rank are exchanged at once; a graph is replayed with all of its batch."""
    facts = options.facts
    batches = facts.get("graph_batches")
    sizes = [*(batches if isinstance(batches, list) else ()), facts.get("graph_batch")]
    largest = max((_count(size) for size in sizes), default=0) * max(1, _count(facts.get("draft_tokens")))
    kernel, variable, limit = _room(component, options)
    if facts.get("eager") or limit is None or largest <= limit:
        return
    fact = "graph_batches" if isinstance(batches, list) else "graph_batch"
    report.warning(
        "D325",
        f"CUDA graphs of `{component.name}` reach {spell_count(largest, 'token')}, "
        f"{kernel} sends {limit or 'none'} of a rank",
        (component.where(fact), f"up to {spell_count(largest, 'token')}"),
        notes=[f"{variable} is {limit}" + ("" if variable in component.env else ", its default")],
        remedies=[Remedy((Put((*component.at, "env", variable), str(largest)),))],
    )


def _room(component: Component, options: WorkerOptions) -> tuple[str, str, int | None]:
    """What exchanges tokens of experts, the variable that says how many of a rank, and what it says."""
    facts, env = options.facts, component.env
    backend = facts.get("a2a")
    if backend == "megamoe" or (backend == "deepep" and env.get(MEGA_MOE, "").lower() in ("1", "true")):
        return "MegaMoE", MEGA_ROOM, _number(env.get(MEGA_ROOM))
    if backend != "deepep" or facts.get("deepep_mode") not in (None, "auto", "low_latency"):
        return "", DISPATCH, None
    return "DeepEP", DISPATCH, _number(env.get(DISPATCH, str(DISPATCH_DEFAULT)))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
