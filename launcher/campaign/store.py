"""A campaign's folder: what it is, written once, and what came of it, only ever appended to."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from dynamoc.compiler.campaign.limits import Limit
from dynamoc.compiler.campaign.points import Campaign, Ladder, Pruned
from dynamoc.compiler.cluster import Cluster
from dynamoc.launcher.campaign.failures import Failure
from dynamoc.launcher.campaign.lines import Lines, LinesError
from dynamoc.launcher.results.row import Row

SETTINGS = "campaign.json"
DEPLOYMENTS = "deployments.jsonl"
PRUNED = "pruned.jsonl"
RESULTS = "results.jsonl"
JOURNAL = "journal.jsonl"
INVENTORY = "inventory.json"
STATUS = "status.json"
CANCEL = "cancel"
RUNS = "runs"
CACHE = ".results"


class CampaignError(Exception):
    """A campaign's folder cannot be made or read; the message is for the user."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the whole campaign."""

    name: str
    target: str
    repeats: int
    sla: tuple[Limit, ...]
    stops: bool
    gpu_hours: float | None
    wall_time_s: float | None
    retries: int
    at_once: int
    combinations: int
    same: int
    made: float


class StoredDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as it is started, and everything it is put under."""

    id: str
    values: dict[str, Any]
    spec: str
    gpus: int
    ladders: tuple[Ladder, ...]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the journal.

    `opened` and `closed` are a launcher's; an `attempt` at a deployment is about to be made in the run folder `run`,
    and has `ended` with its GPU-seconds; `failed` is one repeat of one point; a deployment is `reopened` where all of
    its points that failed until then are to be measured after all.
    """

    what: Literal["opened", "closed", "attempt", "ended", "failed", "reopened"]
    wall: float
    deployment: str = ""
    attempt: int = 0
    run: str = ""
    point: str = ""
    repeat: int = 0
    gpu_s: float = 0.0
    failure: Failure | None = None


class Store:
    """One folder. Reading is free to all; whoever adds holds the folder's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.results = Lines(self.folder / RESULTS, Row)
        self.journal = Lines(self.folder / JOURNAL, Event)

    def settings(self) -> Settings:
        """CampaignError where this is no campaign's folder."""
        settings: Settings = self._read(SETTINGS, Settings)
        return settings

    def inventory(self) -> Cluster:
        """What the points were proved against."""
        cluster: Cluster = self._read(INVENTORY, Cluster)
        return cluster

    def deployments(self) -> list[StoredDeployment]:
        """In the order of the campaign."""
        return self._lines(DEPLOYMENTS, StoredDeployment)

    def pruned(self) -> list[Pruned]:
        """Combinations that are not run, and why."""
        return self._lines(PRUNED, Pruned)

    def run_folder(self, run: str) -> Path:
        """Of one attempt."""
        return self.folder / RUNS / run

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked that nothing more be started."""
        return (self.folder / CANCEL).exists()

    def cached(self, point: str, repeat: int) -> Path:
        """Where campaigns beside this one find the result of a point."""
        return self.folder.parent / CACHE / f"{point}.{repeat}.json"

    def _lines(self, name: str, kind: Any) -> list[Any]:
        try:
            return Lines(self.folder / name, kind).read()
        except (OSError, LinesError) as error:
            raise CampaignError(str(error)) from error

    def _read(self, name: str, kind: Any) -> Any:
        path = self.folder / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError as error:
            raise CampaignError(f"{self.folder} is no campaign's folder: it has no {name}") from error
        except (OSError, msgspec.MsgspecError) as error:
            raise CampaignError(f"{path}: {error}") from error


def create_store(parent: Path, campaign: Campaign, cluster: Cluster, texts: Mapping[str, str]) -> Store:
    """A new folder `<name>-<utc>-<id>` below `parent`: there with everything in it, or not at all. CampaignError.

    `texts` are the files that the campaign was read from.
    """
    now = datetime.now(UTC)
    name = f"{campaign.name}-{now.strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(3)}"
    draft = parent.resolve() / f".{name}"
    try:
        (draft / RUNS).mkdir(parents=True)
        for file, text in texts.items():
            (draft / file).write_text(text)
        _write(draft / INVENTORY, cluster)
        _write(draft / SETTINGS, _settings_of(campaign, now.timestamp()))
        Lines(draft / DEPLOYMENTS, StoredDeployment).add(*_stored(campaign))
        if campaign.pruned:
            Lines(draft / PRUNED, Pruned).add(*campaign.pruned)
        return Store(draft.rename(parent.resolve() / name))
    except OSError as error:
        raise CampaignError(f"cannot make a campaign's folder in {parent}: {error}") from error


def _settings_of(campaign: Campaign, made: float) -> Settings:
    shared = {name: getattr(campaign, name) for name in Settings.__struct_fields__ if name != "made"}
    return Settings(**shared, made=made)


def _stored(campaign: Campaign) -> Sequence[StoredDeployment]:
    return [
        StoredDeployment(id=one.id, values=dict(one.values), spec=one.spec, gpus=one.gpus, ladders=one.ladders)
        for one in campaign.deployments
    ]


def _write(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n")
