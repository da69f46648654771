"""`dynamoc sweep`: run a campaign, go on with one, look at one, end one."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import Findings

if TYPE_CHECKING:
    from rich.console import Console

    from dynamoc.launcher.campaign.store import Store

INTERRUPTED = 130


class FileOrCommand(click.Group):
    """`sweep FILE` is `sweep run FILE`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """What is no command is a file, or an option in front of it."""
        if args and args[0] not in self.commands:
            return "run", self.commands["run"], args
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options in front of the file belong to `run`."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=FileOrCommand)
def command() -> None:
    """Measure every point of a campaign: `sweep FILE`, or one of the commands below."""


FOLDER = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say how many points, jobs and GPU-hours it is, and what is pruned.")
@click.option(
    "--campaigns-dir",
    default="campaigns",
    show_default=True,
    type=click.Path(path_type=Path),
    help="For campaigns' folders. Campaigns in one folder share their results.",
)
def run(file: Path, dry_run: bool, campaigns_dir: Path) -> None:
    """Expand FILE, prove every point, and measure those that can run."""
    from rich.console import Console

    from dynamoc.launcher.campaign.opening import open_campaign
    from dynamoc.launcher.campaign.store import CampaignError, create_store
    from dynamoc.launcher.campaign.summary import show_summary

    console = Console(highlight=False, soft_wrap=True)
    findings = Findings()
    with findings.shown():
        opened = open_campaign(file, findings)
    findings.show(opened.campaign.warnings)
    show_summary(opened.campaign, console)
    if dry_run:
        return
    try:
        campaigns_dir.mkdir(parents=True, exist_ok=True)
        store = create_store(campaigns_dir, opened.campaign, opened.cluster, opened.texts)
    except (CampaignError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(_go_on(store, console))


@command.command()
@FOLDER
@click.option(
    "--retry-failed", "retries_failed", is_flag=True, help="Measure what failed once more, within the budget."
)
def resume(folder: Path, retries_failed: bool) -> None:
    """Go on with the campaign in FOLDER: nothing is measured twice, no job is submitted twice."""
    from rich.console import Console

    from dynamoc.launcher.campaign.store import Store

    sys.exit(_go_on(Store(folder), Console(highlight=False, soft_wrap=True), retries_failed=retries_failed))


@command.command()
@FOLDER
def status(folder: Path) -> None:
    """Show how far the campaign in FOLDER is."""
    from rich.console import Console

    from dynamoc.launcher.campaign.lines import LinesError
    from dynamoc.launcher.campaign.owner import is_owned
    from dynamoc.launcher.campaign.state import State
    from dynamoc.launcher.campaign.status import StatusWriter, status_table
    from dynamoc.launcher.campaign.store import CampaignError, Store

    try:
        state = State(Store(folder))
        left = any(state.pending(deployment) for deployment in state.deployments)
        word = "running" if is_owned(folder) else "not running" if left else "done"
        Console(highlight=False, soft_wrap=True).print(status_table(StatusWriter(state).now(word)))
    except (CampaignError, LinesError, OSError) as error:
        raise click.ClickException(str(error)) from error


@command.command()
@FOLDER
def cancel(folder: Path) -> None:
    """End what runs of the campaign in FOLDER; `sweep resume` takes it up again."""
    from dynamoc.launcher.campaign.cancelling import cancel_campaign
    from dynamoc.launcher.campaign.store import CampaignError
    from dynamoc.launcher.slurm.receipts import ReceiptsError
    from dynamoc.launcher.slurm.tools import SlurmError

    try:
        click.echo(cancel_campaign(folder))
    except (CampaignError, ReceiptsError, SlurmError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _go_on(store: Store, console: Console, *, retries_failed: bool = False) -> int:
    """Measure what is left; the exit status."""
    from dynamoc.launcher.campaign.execute import Ended
    from dynamoc.launcher.campaign.lines import LinesError
    from dynamoc.launcher.campaign.owner import OwnedError
    from dynamoc.launcher.campaign.progress import progress
    from dynamoc.launcher.campaign.running import run_campaign
    from dynamoc.launcher.campaign.status import status_table
    from dynamoc.launcher.campaign.store import CampaignError

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console.print(f"campaign folder: {store.folder}", markup=False)
    try:
        with progress(console) as show:
            ended, final = run_campaign(store, console, show, retries_failed=retries_failed)
    except (CampaignError, LinesError, OwnedError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print(f"\ninterrupted; `dynamoc sweep resume {store.folder}` goes on", markup=False)
        return INTERRUPTED
    console.print(status_table(final))
    return 0 if ended is Ended.DONE and not final.failed else 1
