"""`dynamoc explain CODE`: the page of an error code."""

from __future__ import annotations

import sys
from importlib import resources

import click


@click.command(name="explain")
@click.argument("code")
def command(code: str) -> None:
    """Explain an error code: why it is one, an example, and what to write instead."""
    from dynamoc.compiler.codes import CODES

    wanted = code.upper()
    if wanted not in CODES:
        from difflib import get_close_matches

        near = get_close_matches(wanted, CODES, 1)
        raise click.BadParameter(
            f"there is no code `{code}`" + (f"; did you mean `{near[0]}`?" if near else ""), param_hint="CODE"
        )
    page = resources.files("dynamoc").joinpath("errors", f"{wanted}.md").read_text()
    if not sys.stdout.isatty():
        click.echo(page, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(page))
