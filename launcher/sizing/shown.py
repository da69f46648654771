"""An answer for people: a sentence for each kind of plan, and its table."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dynamoc.launcher.sizing.answer import Answer, Asked, CopiesAnswer, PoolsAnswer

CHOICES = 5


def show(found: Answer, console: Console) -> None:
    """All of it, and what is to be known of it."""
    console.print(_asked(found.asked), markup=False)
    if found.pools is None:
        console.print(f"\npools: no plan, because {found.no_pools}", markup=False)
    else:
        console.print(f"\n{_pools_words(found.pools, found)}", markup=False)
        console.print(_pools_table(found.pools, found.units))
    if not found.copies:
        console.print(f"copies: no plan, because {found.no_copies}", markup=False)
    else:
        console.print(_copies_table(found))
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def _asked(asked: Asked) -> str:
    limits = ", ".join(map(str, asked.sla)) or "no limit"
    return f"{asked.requests_per_s:g} requests/s of {asked.isl} tokens in and {asked.osl} out; {limits}"


def _pools_words(pools: PoolsAnswer, found: Answer) -> str:
    size = f"{pools.gpus} {found.units}s"
    cost = f", {_cost(pools.gpu_hours_per_1k, pools.price_per_hour)}" if found.units == "GPU" else ""
    less = pools.served_per_s < found.asked.requests_per_s
    served = f"; {pools.needed} are needed, and the budget leaves {pools.served_per_s:.4g} requests/s" if less else ""
    return f"pools: {pools.name} on {size}{cost}; {pools.binding} binds{served}"


def _pools_table(pools: PoolsAnswer, units: str) -> Table:
    table = _table("pool", "workers", f"{units}s each", "TTFT or TPOT", "requests/s each", "utilisation")
    for pool in pools.pools:
        table.add_row(
            pool.role,
            str(pool.workers),
            str(pool.gpus_each),
            f"{pool.time_ms:.4g} ms",
            f"{pool.requests_per_s_each:.4g}",
            f"{pool.utilisation:.0%}",
        )
    return table


def _copies_table(found: Answer) -> Table:
    table = _table("deployment", "each at", "copies", "GPUs", "utilisation", "cost")
    table.title, table.title_justify = "copies of a deployment that was measured", "left"
    for one in found.copies[:CHOICES]:
        table.add_row(one.name, one.load, str(one.copies), str(one.gpus or "–"), f"{one.utilisation:.0%}", _of(one))
    if len(found.copies) > CHOICES:
        table.add_row("…", f"{len(found.copies) - CHOICES} more")
    return table


def _of(one: CopiesAnswer) -> str:
    return _cost(one.gpu_hours_per_1k, one.price_per_hour) if one.gpus else "–"


def _cost(gpu_hours_per_1k: float, price_per_hour: float | None) -> str:
    money = "" if price_per_hour is None else f"${price_per_hour:,.2f}/h, "
    return f"{money}{gpu_hours_per_1k:.4g} GPU-hours per 1k requests"


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("pool", "deployment", "each at") else "right")
    return table
