"""`dynamoc schema`: the JSON schema of specs and of campaigns, for editors."""

from __future__ import annotations

import json

import click


@click.command(name="schema")
@click.option("--campaign", is_flag=True, help="That of campaigns.")
def command(campaign: bool) -> None:
    """Print the JSON schema of specs."""
    from dynamoc.compiler.campaign.spec import json_schema as of_campaigns
    from dynamoc.compiler.spec import json_schema as of_specs

    click.echo(json.dumps(of_campaigns() if campaign else of_specs(), indent=2))
