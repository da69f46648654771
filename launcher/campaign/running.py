"""Opens a campaign's folder, takes its lock, and runs what is left of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from dynamoc.launcher.campaign.cache import ResultCache
from dynamoc.launcher.campaign.execute import Campaigner, Ended
from dynamoc.launcher.campaign.executor import Executor
from dynamoc.launcher.campaign.opening import SIMULATED, models_of
from dynamoc.launcher.campaign.owner import owned
from dynamoc.launcher.campaign.state import State
from dynamoc.launcher.campaign.status import Status, StatusWriter
from dynamoc.launcher.campaign.store import CACHE, CANCEL, Store


def run_campaign(
    store: Store, console: Console, show: Callable[[Status], None], *, retries_failed: bool = False
) -> tuple[Ended, Status]:
    """Why it ended, and how far it is then. CampaignError, LinesError, OwnedError."""
    stopping = threading.Event()
    with owned(store.folder) as before:
        if before is not None:
            console.print(f"process {before.pid} on {before.host} ended without a word; going on", markup=False)
        (store.folder / CANCEL).unlink(missing_ok=True)
        state = State(store)
        writer = StatusWriter(state)

        def tick() -> None:
            status = writer.tick()
            if status is not None:
                show(status)

        cache = ResultCache(store.folder.parent / CACHE) if state.settings.target != SIMULATED else None
        executor = _executor(store, state, stopping)
        campaigner = Campaigner(state, executor, cache, tick, stopping, retries_failed=retries_failed)
        state.spend_time("opened")
        try:
            ended = campaigner.run()
        except BaseException:
            stopping.set()
            writer.write("interrupted")
            raise
        finally:
            state.spend_time("closed")
        return ended, writer.write(ended)


def _executor(store: Store, state: State, stopping: threading.Event) -> Executor:
    target, cluster = state.settings.target, store.inventory()
    models = models_of(cluster)

    def is_cancelled() -> bool:
        return stopping.is_set() or store.is_cancelled

    if target == SIMULATED:
        from dynamoc.launcher.campaign.simulated import Simulated

        return Simulated(cluster, models, state.settings.at_once)
    if target == "slurm":
        from dynamoc.launcher.campaign.slurm import Slurm

        return Slurm(store.folder, cluster, models, is_cancelled)
    from dynamoc.launcher.campaign.local import Local

    return Local(store.folder, cluster, models, is_cancelled)


def ask_to_stop(folder: Path) -> None:
    """Whoever runs the campaign starts nothing more, and ends what runs."""
    (folder / CANCEL).touch()
