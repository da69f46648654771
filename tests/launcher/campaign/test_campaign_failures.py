"""A failure is that of its points alone, is tried again if it passes, and ends nothing else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from dynamoc.launcher.campaign.cache import ResultCache
from dynamoc.launcher.campaign.execute import Campaigner, Ended
from dynamoc.launcher.campaign.executor import Attempt, DeploymentError, Measured
from dynamoc.launcher.campaign.failures import Cause, Failure, cause_of_start, cause_of_state
from dynamoc.launcher.campaign.opening import models_of, open_campaign
from dynamoc.launcher.campaign.simulated import Simulated
from dynamoc.launcher.campaign.state import State, Task
from dynamoc.launcher.campaign.store import Store, create_store
from dynamoc.launcher.cli import root
from dynamoc.launcher.reading import Findings

CAMPAIGN = """dynamoc: 1
campaign: fails
base:
  dynamoc: 1
  name: mockers
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: mocker, device: cpu, context_length: 512, kv_blocks: 256}
  components: {frontend: {role: frontend, port: 8000}, router: {role: router}, worker: {role: aggregated}}
  edges: [frontend -> router -> worker]
target: simulated
axes: {defaults.block_size: [16, 32]}
loads: [{isl: 64, osl: 4, concurrency: [1, 2], requests: 4}]
budget: {retries: 1}
"""
Script = Callable[[Attempt, int], Failure | None]


class Troubled:
    """Simulated time on machines that fail as a test says: by attempt, and how often there was one already."""

    goes_on = False

    def __init__(self, store: Store, script: Script) -> None:
        cluster = store.inventory()
        self._inner = Simulated(cluster, models_of(cluster), 1)
        self._script = script
        self.attempts: list[str] = []

    @contextlib.contextmanager
    def session(self, attempt: Attempt) -> Iterator[Troubled]:
        failure = self._script(attempt, self.attempts.count(attempt.deployment.id))
        self.attempts.append(attempt.deployment.id)
        if failure is not None:
            raise DeploymentError(failure)
        with self._inner.session(attempt) as session:
            self.gpu_s = 1800.0
            self.measure = session.measure
            yield self

    def recover(self, attempt: Attempt, tasks: Sequence[Task]) -> Iterator[Measured]:
        return self._inner.recover(attempt, tasks)


def fresh(folder: Path, text: str = CAMPAIGN) -> Store:
    (folder / "campaign.yaml").write_text(text)
    opened = open_campaign(folder / "campaign.yaml", Findings())
    return create_store(folder, opened.campaign, opened.cluster, opened.texts)


def run(
    store: Store, script: Script, cache: ResultCache | None = None, *, retries_failed: bool = False
) -> tuple[Ended, State, list[str]]:
    state, executor = State(store), Troubled(store, script)
    campaigner = Campaigner(state, executor, cache, lambda: None, threading.Event(), retries_failed=retries_failed)
    return campaigner.run(), state, executor.attempts


def test_what_cannot_run_is_not_tried_again_and_the_rest_is_measured(tmp_path: Path) -> None:
    store = fresh(tmp_path)
    first = store.deployments()[0].id
    config = Failure(Cause.CONFIG, "no such flag")
    ended, state, attempts = run(store, lambda a, _: config if a.deployment.id == first else None)

    assert (ended, len(attempts)) == (Ended.DONE, 2)
    assert {name: state.counts()[name] for name in ("done", "failed")} == {"done": 2, "failed": 2}
    assert {failure.reason for failure in state.failures().values()} == {"no such flag"}
    assert State(Store(store.folder)).failures() == state.failures()


@pytest.mark.parametrize(("failures", "done"), [(1, 4), (2, 0)])
def test_what_passes_is_tried_again_as_often_as_the_budget_says(tmp_path: Path, failures: int, done: int) -> None:
    lost = Failure(Cause.INFRA, "a node went down")
    _, state, attempts = run(fresh(tmp_path), lambda _, before: lost if before < failures else None)

    assert (state.counts()["done"], state.counts()["failed"]) == (done, 4 - done)
    assert len(attempts) == 4


def test_what_failed_is_measured_after_all_where_that_is_asked_for(tmp_path: Path) -> None:
    store = fresh(tmp_path)
    first = store.deployments()[0].id
    config = Failure(Cause.CONFIG, "no such flag")
    run(store, lambda a, _: config if a.deployment.id == first else None)
    _, state, attempts = run(Store(store.folder), lambda *_: None)
    assert (attempts, state.counts()["failed"]) == ([], 2), "a resume alone changes nothing"

    _, state, attempts = run(Store(store.folder), lambda *_: None, retries_failed=True)
    assert (attempts, state.counts()["done"], state.counts()["failed"]) == ([first], 4, 0)
    assert not State(Store(store.folder)).failures()


def test_what_fails_again_has_failed_with_its_new_reason_and_its_full_retries(tmp_path: Path) -> None:
    store = fresh(tmp_path)
    run(store, lambda *_: Failure(Cause.CONFIG, "no such flag"))
    lost = Failure(Cause.INFRA, "a node went down")
    for _ in range(2):
        _, state, attempts = run(Store(store.folder), lambda *_: lost, retries_failed=True)

        assert len(attempts) == 4, "two deployments, each with the one retry of the budget"
        assert {failure.reason for failure in state.failures().values()} == {"a node went down"}
        assert state.counts()["failed"] == 4


def test_nothing_is_reopened_that_the_budget_would_not_let_start(tmp_path: Path) -> None:
    store = fresh(tmp_path, CAMPAIGN.replace("retries: 1", "gpu_hours: 0.5"))
    first = store.deployments()[0].id
    run(store, lambda a, _: Failure(Cause.CONFIG, "no such flag") if a.deployment.id == first else None)
    before = (store.folder / "journal.jsonl").read_bytes()
    ended, state, attempts = run(Store(store.folder), lambda *_: None, retries_failed=True)

    assert (ended, attempts, state.counts()["failed"]) == (Ended.GPU_HOURS, [], 2)
    assert (store.folder / "journal.jsonl").read_bytes() == before


def test_nothing_is_started_when_the_gpu_hours_are_spent(tmp_path: Path) -> None:
    store = fresh(tmp_path, CAMPAIGN.replace("retries: 1", "gpu_hours: 0.5"))
    ended, state, attempts = run(store, lambda *_: None)

    assert (ended, len(attempts), state.counts()["done"]) == (Ended.GPU_HOURS, 1, 2)


def test_what_another_campaign_has_measured_is_not_measured_again(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / ".results")
    run(fresh(tmp_path), lambda *_: None, cache)
    again = fresh(tmp_path, CAMPAIGN.replace("campaign: fails", "campaign: again"))
    ended, state, attempts = run(again, lambda *_: None, cache)

    assert (ended, attempts, state.counts()["done"]) == (Ended.DONE, [], 4)


def test_causes_are_read_from_the_words_of_those_who_saw_them() -> None:
    assert cause_of_state("PREEMPTED") is Cause.PREEMPTED
    assert cause_of_state("NODE_FAIL") is Cause.INFRA
    assert cause_of_state("TIMEOUT") is Cause.QUOTA
    assert cause_of_start("CUDA out of memory") is Cause.CONFIG
    assert cause_of_start("bind: address already in use") is Cause.INFRA
    assert cause_of_start("segmentation fault") is Cause.ENGINE


def test_the_command_line_from_dry_run_to_status(tmp_path: Path) -> None:
    file, folder = tmp_path / "c.yaml", tmp_path / "campaigns"
    file.write_text(CAMPAIGN)
    dry = CliRunner().invoke(root, ["sweep", str(file), "--dry-run"])
    whole = CliRunner().invoke(root, ["sweep", str(file), "--campaigns-dir", str(folder)])
    (made,) = folder.glob("[!.]*")
    shown = CliRunner().invoke(root, ["sweep", "status", str(made)])

    assert (dry.exit_code, whole.exit_code, shown.exit_code) == (0, 0, 0)
    assert "2 of the axes, 2 deployments" in dry.output
    assert "4 of at most 4: 4 measured, 0 failed" in shown.output
