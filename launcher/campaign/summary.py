"""A campaign before anything runs: how much it is, and what was pruned by which rule."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from dynamoc.compiler.campaign.ladder import at_most
from dynamoc.compiler.campaign.points import Campaign, Deployment

HOUR_S = 3600.0
SHOWN = 12


def show_summary(campaign: Campaign, console: Console) -> None:
    """Points, jobs and GPU-hours, and the rules that pruned."""
    grid = Table.grid(padding=(0, 2))
    deployments = campaign.deployments
    points = sum(at_most(ladder) for one in deployments for ladder in one.ladders)
    jobs = sum(_jobs(one, campaign) for one in deployments)
    bound = "at most " if campaign.searches else ""
    grid.add_row("campaign", f"{campaign.name} for {campaign.target}")
    grid.add_row("combinations", f"{campaign.combinations} of the axes, {len(deployments)} deployments")
    repeats = f" x {campaign.repeats} repeats" if campaign.repeats > 1 else ""
    grid.add_row(
        "points", f"{bound}{points}{repeats}; {campaign.same} the same as others; {len(campaign.pruned)} pruned"
    )
    if campaign.target == "slurm":
        grid.add_row(
            "jobs", f"{'at most ' if campaign.stops or campaign.searches else ''}{jobs}, {campaign.at_once} at a time"
        )
    if campaign.target != "simulated":
        grid.add_row("GPU-hours", f"at most {gpu_hours(campaign):,.1f}, if every load takes until its deadline")
    else:
        grid.add_row("GPU-hours", "none: simulated time")
    console.print(grid)
    if campaign.pruned:
        console.print(_pruned(campaign))


def gpu_hours(campaign: Campaign) -> float:
    """No load takes longer than its deadline, and no job than its limit; starts on this machine are not in it."""
    return sum(one.gpus * _longest_s(one, campaign) for one in campaign.deployments) / HOUR_S


def _longest_s(deployment: Deployment, campaign: Campaign) -> float:
    loads = campaign.repeats * sum(
        (ladder.points[0] if ladder.search is None else ladder.search.point).load.deadline_s * at_most(ladder)
        for ladder in deployment.ladders
    )
    limit = deployment.plan.graph.time_limit_s
    return loads if limit is None or campaign.target != "slurm" else min(loads, limit * _jobs(deployment, campaign))


def _jobs(deployment: Deployment, campaign: Campaign) -> int:
    """One for all that is known before; one for each step of a ladder that depends on its last."""
    steps = [at_most(ladder) if campaign.stops or ladder.search else 1 for ladder in deployment.ladders]
    return max(steps)


def _pruned(campaign: Campaign) -> Table:
    table = Table(title="Pruned", title_justify="left", box=None)
    for heading in ("points", "rule", "what it found", "for one of them"):
        table.add_column(heading, justify="right" if heading == "points" else "left")
    counts = Counter((one.rule, one.message) for one in campaign.pruned)
    first = {(one.rule, one.message): one for one in reversed(campaign.pruned)}
    for key, count in counts.most_common(SHOWN):
        table.add_row(str(count), key[0], key[1], first[key].notes[0] if first[key].notes else "")
    if len(counts) > SHOWN:
        table.add_row("", "…", f"{len(counts) - SHOWN} more", "")
    return table
