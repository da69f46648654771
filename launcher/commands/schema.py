"""`dynamoc schema`: the JSON schema of specs, for editors."""

from __future__ import annotations

import json

import click


@click.command(name="schema")
def command() -> None:
    """Print the JSON schema of specs."""
    from dynamoc.compiler.spec import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
