"""The load of a spec -> the load of a graph: its defaults filled, its trace held against what is known of the file."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter
from dynamoc.compiler.effects import no_effect
from dynamoc.compiler.load import Load, Replay
from dynamoc.compiler.load_spec import LoadSpec
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.trace_facts import DEFAULT_BLOCK_TOKENS, Extent, TraceFacts
from dynamoc.compiler.units import spell_count

AT: Path = ("load",)
HOW = ("requests", "warmup_requests", "shared_prefix", "prefixes", "seed", "tool")
"""How a load is made, where one is made."""
SPREADS = ("isl_stddev", "osl_stddev")
OF_A_TRACE = ("trace_speed", "trace_block_tokens")
NOT_OF_A_TRACE = (*SPREADS, "shared_prefix", "prefixes")


def resolve_load(load: LoadSpec, traces: Mapping[str, TraceFacts], report: Reporter) -> Load:
    """What the load means. `traces` are known by their names in the spec."""
    several = load.concurrency if isinstance(load.concurrency, list) else [load.concurrency]
    given = {name: plain(value) for name in (*SPREADS, *HOW) if (value := getattr(load, name)) is not None}
    found = Load(
        int(load.isl),
        int(load.osl),
        concurrency=tuple(int(number) for number in several if number is not None),
        concurrency_per_gpu=load.concurrency_per_gpu,
        request_rate=None if load.request_rate is None else float(load.request_rate),
        trace=_replay(load, traces),
        at=AT,
        **given,
    )
    _check_effects(load, found, report)
    if found.trace is not None:
        _check_trace(found, found.trace, report)
    return found


def _replay(load: LoadSpec, traces: Mapping[str, TraceFacts]) -> Replay | None:
    if load.trace is None:
        return None
    block_tokens = int(load.trace_block_tokens or DEFAULT_BLOCK_TOKENS)
    return Replay(str(load.trace), float(load.trace_speed or 1.0), block_tokens, traces.get(load.trace))


def _check_effects(load: LoadSpec, found: Load, report: Reporter) -> None:
    """D116 fields that change nothing beside the others, D115 two clocks for one load."""
    written = {name for name in type(load).model_fields if getattr(load, name) is not None}
    if not found.is_made:
        for name in HOW:
            if name in written:
                no_effect((*AT, name), "the load has neither `concurrency` nor `request_rate`: none is made", report)
    for name in OF_A_TRACE if found.trace is None else NOT_OF_A_TRACE:
        if name in written:
            why = "the load has no `trace`" if found.trace is None else "prompts and lengths are those of the trace"
            no_effect((*AT, name), why, report)
    if found.is_made and found.trace is None and "prefixes" in written and "shared_prefix" not in written:
        no_effect((*AT, "prefixes"), "the load has no `shared_prefix`", report)
    if found.trace is not None and found.request_rate is not None:
        report.error(
            "D115",
            "`trace` and `request_rate` exclude each other",
            ((*AT, "trace"), "its requests have times of their own"),
            ((*AT, "request_rate"), ""),
            remedies=[Remedy((Drop((*AT, "request_rate")),))],
            at_key=True,
        )


def _check_trace(load: Load, trace: Replay, report: Reporter) -> None:
    """D223 a trace that cannot be replayed as it is asked for, D224 one that goes beyond `isl` or `osl`."""
    facts, at = trace.facts, (*AT, "trace")
    if facts is None:
        report.leave_unchecked(f"nothing is known of the trace `{trace.path}`")
        return
    extent = facts.extent(load.requests)
    if load.requests is None or load.requests > facts.requests:
        if facts.fault:
            report.error("D223", "the trace cannot be replayed", (at, facts.fault))
            return
        if load.requests is not None:
            _report_too_few(load.requests, facts.requests, report)
            return
    assert extent is not None, "a trace without a fault has a request"
    if not extent.holds_block(trace.block_tokens):
        _report_blocks(trace, extent, report)
    for field, bound, tokens in (("isl", load.isl, extent.prompt), ("osl", load.osl, extent.output)):
        if tokens > bound:
            what = "prompt" if field == "isl" else "answer"
            report.error(
                "D224",
                f"the trace has a {what} longer than `{field}`",
                ((*AT, field), f"{bound} tokens"),
                (at, f"a {what} of {spell_count(tokens, 'token')}"),
                notes=[f"{tokens} > {bound}"],
                remedies=[Remedy((Put((*AT, field), tokens),))],
            )


def _report_too_few(asked: int, there: int, report: Reporter) -> None:
    report.error(
        "D223",
        f"the trace has {spell_count(there, 'request')}, and the load asks for {asked}",
        ((*AT, "requests"), ""),
        ((*AT, "trace"), spell_count(there, "request")),
        notes=[f"{there} < {asked}"],
        remedies=[Remedy((Put((*AT, "requests"), there),))],
    )


def _report_blocks(trace: Replay, extent: Extent, report: Reporter) -> None:
    powers = [1 << shift for shift in range(17) if extent.holds_block(1 << shift)]
    likely = powers[-1] if powers else extent.least_block
    span = f"from {extent.least_block} to {extent.most_block}"
    report.error(
        "D223",
        f"hashes of the trace do not stand for {spell_count(trace.block_tokens, 'token')} each",
        ((*AT, "trace"), f"by its lengths, for {span} tokens"),
        notes=[f"{trace.block_tokens} is not {span}"],
        remedies=[Remedy((Put((*AT, "trace_block_tokens"), likely),))],
    )
