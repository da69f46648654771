"""`dynamoc capacity PATH...`: how many workers a demand takes, from what was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import EXIT_WRONG, FORMAT

if TYPE_CHECKING:
    from dynamoc.launcher.sizing.answer import Answer

WIDE = 160
"""Columns where no terminal says how many there are."""
ABOVE_0 = click.FloatRange(min=0, min_open=True)


@click.command(name="capacity")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rate", required=True, type=ABOVE_0, help="Requests a second that are to be served.")
@click.option("--isl", required=True, type=click.IntRange(1), help="Input sequence length, tokens.")
@click.option("--osl", required=True, type=click.IntRange(1), help="Output sequence length, tokens.")
@click.option("--sla", "texts", multiple=True, help="Target, such as `ttft_ms@p95 <= 500`; the campaigns' own if none.")
@click.option("--price", type=click.FloatRange(min=0), help="Of a GPU-hour, in dollars.")
@click.option(
    "--headroom",
    default=0.9,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of what a worker was seen to carry to plan with.",
)
@click.option("--gpus", type=click.IntRange(1), help="At most so many GPUs.")
@FORMAT
def command(
    paths: tuple[Path, ...],
    rate: float,
    isl: int,
    osl: int,
    texts: tuple[str, ...],
    price: float | None,
    headroom: float,
    gpus: int | None,
    form: str,
) -> None:
    """Whole numbers of prefill and decode workers, and of copies of deployments, that carry a demand.

    PATHS are what `dynamoc report` takes: campaigns, runs, rows. Nothing beyond what they measured is guessed.
    Exit 0: there is an answer; 1: there is none, and the reason is shown.
    """
    from dynamoc.launcher.campaign.store import CampaignError
    from dynamoc.launcher.commands.report import read_limits
    from dynamoc.launcher.report.collect import collect
    from dynamoc.launcher.report.points import ReportError
    from dynamoc.launcher.sizing.answer import Asked, SizingError, answer
    from dynamoc.launcher.sizing.workers import pairs_in

    try:
        results = collect(paths)
        asked = Asked(
            requests_per_s=rate,
            isl=isl,
            osl=osl,
            sla=read_limits(texts) or results.limits,
            price=price,
            headroom=headroom,
            gpu_budget=gpus,
        )
        found = answer(results.measured, pairs_in(paths), asked)
    except SizingError as error:
        raise click.UsageError(str(error)) from error
    except (ReportError, CampaignError, OSError) as error:
        raise click.ClickException(str(error)) from error
    _show(found, form)
    sys.exit(0 if found.pools is not None or found.copies else EXIT_WRONG)


def _show(found: Answer, form: str) -> None:
    if form == "json":
        import msgspec

        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
        return
    from rich.console import Console

    from dynamoc.launcher.sizing.shown import show

    show(found, Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE))
