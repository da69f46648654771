"""Ends a campaign from outside: its launcher if it has one, and its jobs."""

from __future__ import annotations

from pathlib import Path

from dynamoc.launcher.campaign.owner import is_owned
from dynamoc.launcher.campaign.running import ask_to_stop
from dynamoc.launcher.campaign.store import Store
from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.receipts import Receipts
from dynamoc.launcher.slurm.submission import job_of


def cancel_campaign(folder: Path) -> str:
    """What was done, in words. CampaignError, ReceiptsError, SlurmError."""
    store = Store(folder)
    store.settings()
    ask_to_stop(store.folder)
    if is_owned(store.folder):
        return "its launcher ends what runs, and stops"
    ended = []
    for event in store.journal.read():
        run = store.run_folder(event.run)
        if event.what == "attempt" and (run / "receipts.jsonl").is_file():
            job = job_of(run)
            now = None if job is None else tools.look(job)
            if job is not None and now is not None and not now.phase.is_over:
                tools.cancel(job)
                Receipts(run).add("cancel", job=job)
                ended.append(job)
    return f"no launcher runs it; jobs cancelled: {', '.join(ended) or 'none'}"
