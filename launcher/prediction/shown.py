"""An estimate on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamoc.launcher.prediction.predict import Estimate, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table


def show(prediction: Prediction, console: Console) -> None:
    """The table, then in lines what it is worth."""
    if prediction.estimates:
        console.print(f"\n[bold]Estimate[/] by {prediction.estimator}, not a measurement\n")
        console.print(_table(prediction.estimates))
    for line in _lines(prediction):
        console.print(line, markup=False, soft_wrap=True)


def _table(estimates: tuple[Estimate, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("load")
    for title in (
        "TTFT ≥ ms",
        "TPOT ~ ms",
        "tokens/s/user ~",
        "tokens/s ~",
        "tokens/s/GPU ~",
        "requests/s ~",
        "bound by",
    ):
        table.add_column(title, justify="right")
    for one in estimates:
        latencies = f"{one.ttft_ms:,.0f}", f"{one.tpot_ms:,.1f}", f"{one.tokens_per_s_per_user:,.1f}"
        rates = f"{one.tokens_per_s:,.0f}", f"{one.tokens_per_s_per_gpu:,.1f}", f"{one.requests_per_s:,.3g}"
        table.add_row(one.load, *latencies, *rates, one.binding)
    return table


def _lines(prediction: Prediction) -> Iterator[str]:
    for one in prediction.estimates[:1]:
        formats = ", ".join(f"{name} {value}" for name, value in one.formats.items() if value != "None")
        yield f"formats it took: {formats}"
    yield from prediction.bands
    yield from (f"{one.load}: {one.warning}" for one in prediction.estimates if one.warning is not None)
    yield from (f"not in it: {line}" for line in prediction.left_out)
    for missing in prediction.not_estimated:
        yield f"no estimate{'' if missing.load is None else f' of {missing.load}'}: {missing.reason}"
