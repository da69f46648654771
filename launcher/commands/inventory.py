"""`dynamoc inventory`: write a cluster file from what a scheduler, or this machine, says of itself."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec.structs import replace


@click.command(name="inventory")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["slurm", "k8s", "local"]),
    default="local",
    show_default=True,
    help="Who is asked: scontrol and sinfo, kubectl, or this machine.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where the file goes; else shown."
)
@click.option("--name", help="Name of the cluster; `slurm`, `k8s` or `local` if left out.")
@click.option("--gpu", "kind", help="Kind of the GPUs, where nothing that was found names it: H200.")
def command(origin: str, output: Path | None, name: str | None, kind: str | None) -> None:
    """Write the inventory of a cluster: nodes, GPUs, memory, partitions and their limits."""
    from dynamoc.compiler.cluster_spec import read_cluster
    from dynamoc.compiler.diagnostics import CompileError
    from dynamoc.compiler.source import read_source
    from dynamoc.launcher import inventory
    from dynamoc.launcher.discovery import DiscoveryError, cluster_text, with_gpus_named

    ask = {"slurm": inventory.find_slurm, "k8s": inventory.find_kubernetes, "local": inventory.find_local}[origin]
    try:
        found = ask()
        text = cluster_text(with_gpus_named(replace(found, name=name or found.name), kind))
        cluster = read_cluster(read_source(text, f"{origin} inventory"))
    except DiscoveryError as error:
        raise click.ClickException(str(error)) from error
    except CompileError as error:
        raise click.ClickException(f"what was found makes no inventory: {error}") from error
    if output is None:
        click.echo(text, nl=False)
        return
    draft = output.with_name(f".{output.name}.draft")
    draft.write_text(text)
    draft.replace(output)
    gpus = sum(node.gpus for node in cluster.nodes)
    click.echo(f"{output}: {len(cluster.nodes)} nodes, {gpus} GPUs, inventory {cluster.digest}", err=True)
