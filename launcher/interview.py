"""Asks a running pipeline a few questions, and shows what it cost and which way the KV cache went."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from dynamoc.launcher.asking import Answer, ask, chat_body, wait_healthy
from dynamoc.launcher.scraping import Summary, problems, scrape_run, summarise
from dynamoc.runtime.agent.record import ProcessStatus
from dynamoc.runtime.manifest import Manifest

MILLI = 1000.0


class Run(Protocol):
    """A run that serves."""

    @property
    def manifest(self) -> Manifest:
        """The plan, with the ports that were taken."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """The address of every node."""
        ...

    def urls(self) -> tuple[str, ...]:
        """Where the frontends answer."""
        ...

    def processes(self) -> list[ProcessStatus]:
        """All processes, in plan order."""
        ...


def interview(run: Run, console: Console, questions: Sequence[str], max_tokens: int) -> list[str]:
    """Ask everything in turn, all under one system prompt, and show the figures; what was not as it should be.

    AskError or ScrapeError where the pipeline does not answer.
    """
    system = (files("dynamoc") / "specs" / "demo" / "system.txt").read_text().strip()
    url = run.urls()[0]
    wait_healthy(url)
    answers = []
    for question in questions:
        console.print(f"\n[bold]{'›'} [/]", end="")
        console.print(question, style="bold", markup=False, highlight=False, soft_wrap=True)
        body = chat_body(run.manifest.model.served_name, system, question, max_tokens)
        answers.append(ask(url, body, lambda piece: _write(console, piece)))
        console.print()
    summary = summarise(run.manifest, scrape_run(run.manifest, run.hosts))
    restarts = sum(process.restarts for process in run.processes())
    console.print()
    console.print(answers_table(answers))
    console.print(summary_table(summary, restarts))
    empty = [f"question {n} got an empty answer" for n, a in enumerate(answers, 1) if not a.text.strip()]
    return empty + problems(run.manifest, summary)


def answers_table(answers: Sequence[Answer]) -> Table:
    """A row per question, as the client saw it."""
    table = Table(title="Answers", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("question", "prompt", "cached", "output", "TTFT ms", "ITL ms", "tokens/s", "finish"):
        table.add_column(heading, justify="left" if heading in ("question", "finish") else "right")
    for number, answer in enumerate(answers, 1):
        table.add_row(
            str(number),
            str(answer.prompt_tokens),
            str(answer.cached_tokens),
            str(answer.output_tokens),
            f"{answer.ttft_s * MILLI:.1f}",
            "" if answer.itl_s is None else f"{answer.itl_s * MILLI:.2f}",
            f"{answer.tokens_per_s:.1f}",
            answer.finish or "",
        )
    return table


def summary_table(summary: Summary, restarts: int) -> Table:
    """What the metrics of all processes add up to."""
    table = Table(title="KV cache", title_justify="left", show_header=False, box=SIMPLE_HEAD)
    table.add_column()
    table.add_column(justify="right")
    for transport, moved in summary.moved.items():
        rate = f" at {moved.bytes / moved.seconds / 1e9:.2f} GB/s" if moved.seconds > 0 else ""
        table.add_row(f"prefill -> decode by {transport}", f"{moved.blocks} blocks, {decimal(moved.bytes)}{rate}")
    if not summary.moved:
        table.add_row("prefill -> decode", "nothing moved")
    table.add_row("blocks verified on arrival", str(summary.received_blocks))
    table.add_row("checksum failures", str(summary.checksum_failures))
    share = summary.cached_tokens / summary.prompt_tokens if summary.prompt_tokens else 0.0
    table.add_row(
        "prompt tokens from the prefix cache", f"{summary.cached_tokens} of {summary.prompt_tokens} ({share:.0%})"
    )
    table.add_row("restarts", str(restarts))
    return table


def _write(console: Console, piece: str) -> None:
    """As it comes: no wrapping, no markup, nothing held back."""
    console.file.write(piece)
    console.file.flush()
