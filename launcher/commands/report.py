"""`dynamoc report RUN...`: what campaigns and runs came to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynamoc.compiler.campaign.limits import Limit
    from dynamoc.launcher.report.compared import ComparisonView
    from dynamoc.launcher.report.view import View

FORMATS = {".html": "html", ".csv": "csv", ".md": "md", ".parquet": "parquet"}


@click.command(name="report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File; `report.html` by default.")
@click.option("--format", "form", type=click.Choice(list(FORMATS.values())), help="As the output's name ends, or html.")
@click.option("--sla", "texts", multiple=True, help="Target, such as `ttft_ms@p95 <= 500`; the campaigns' own if none.")
@click.option("--price", type=click.FloatRange(min=0), help="Of a GPU-hour, in dollars.")
@click.option("--against", multiple=True, type=click.Path(path_type=Path), help="An earlier campaign to compare with.")
def command(
    runs: tuple[Path, ...],
    output: Path | None,
    form: str | None,
    texts: tuple[str, ...],
    price: float | None,
    against: tuple[Path, ...],
) -> None:
    """Write what RUNS came to, folders of campaigns or runs or files of rows: one page, or a table.

    `-o -` writes to standard output. With --against, exit 1 where a figure became worse.
    """
    from dynamoc.launcher.report.collect import collect
    from dynamoc.launcher.report.compared import compare_results
    from dynamoc.launcher.report.points import ReportError
    from dynamoc.launcher.report.view import make_view
    from dynamoc.runtime.agent.record import write_atomically

    form = form or FORMATS.get(output.suffix if output is not None else "", "html")
    place = output or Path(f"report.{form}")
    try:
        results = collect(runs)
        view = make_view(results, read_limits(texts) or results.limits, price, place.absolute().parent)
        comparison = compare_results(collect(against), results) if against else None
        content = _content(view, comparison, form)
        if str(output) == "-":
            sys.stdout.buffer.write(content)
        else:
            write_atomically(place, content)
    except (ReportError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if str(output) != "-":
        click.echo(f"{place}: {len(view.points)} points, {len(content) / 1e6:.1f} MB")
    if comparison is not None:
        click.echo(f"against {comparison.title}: {comparison.summary}", err=True)
        sys.exit(1 if comparison.worse else 0)


def _content(view: View, comparison: ComparisonView | None, form: str) -> bytes:
    from dynamoc.launcher.report.export import to_csv, to_markdown, to_parquet
    from dynamoc.launcher.report.page import to_html

    writers = {"csv": to_csv, "md": to_markdown, "parquet": to_parquet}
    return to_html(view, comparison) if form == "html" else writers[form](view)


def read_limits(texts: Sequence[str]) -> tuple[Limit, ...]:
    """Those of `--sla`; a usage error for what is no limit."""
    from dynamoc.compiler.campaign.limits import LimitError, read_limit

    limits = []
    for text in texts:
        try:
            limits.append(read_limit(text))
        except LimitError as error:
            meant = f"; did you mean `{error.near}`?" if error.near else ""
            raise click.UsageError(f"--sla `{text}`: {error}{meant}") from error
    return tuple(limits)
