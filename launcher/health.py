"""Whether a started run does what was planned: checks of which each asks more than the one before."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from dynamoc.launcher.health_record import Check, Health, HealthRecord
from dynamoc.launcher.scraping import (
    ScrapeError,
    Summary,
    counted_transports,
    declared_transports,
    scrape_run,
    summarise,
)
from dynamoc.runtime.agent.record import ProcessStatus, State
from dynamoc.runtime.manifest import Manifest

POLL_S = 0.5
ANSWER_LIMIT_S = 30.0
"""For what needs no model: a process that says it is ready answers well within it."""
SMOKE_TOKENS = 2
SMOKE_BLOCKS = 2


class StartedRun(Protocol):
    """A run whose agents were started."""

    folder: Path
    launch: str

    @property
    def manifest(self) -> Manifest:
        """The plan, with the ports that were taken."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """The address of every node."""
        ...

    def urls(self) -> tuple[str, ...]:
        """Where the frontends answer."""
        ...

    def processes(self) -> list[ProcessStatus]:
        """All processes in plan order, as far as agents spoke of them."""
        ...


Try = Callable[[StartedRun], str]
"""What is still wrong; empty where nothing is."""


class UnwellError(Exception):
    """A check did not pass within its deadline; the message says which, and what was wrong."""


def check_health(run: StartedRun, show: Callable[[Check], None]) -> Health:
    """Every check in turn, each within its deadline; UnwellError at the first that fails. Kept in the run folder."""
    record = HealthRecord(run.folder, run.launch)
    for name, attempt, limit_s in _checks(run.manifest):
        record.waits_for(name)
        check = _passes(name, attempt, limit_s, run)
        record.add(check)
        show(check)
        if check.state == "failed":
            raise UnwellError(f"{name}: {check.said} (after {check.seconds:g} s)")
    return record.healthy()


def _checks(manifest: Manifest) -> list[tuple[str, Try, float]]:
    """Name, attempt and deadline. A start may take as long as the slowest process is given, with its restarts."""
    starts = max((1 + p.restart.limit) * p.ready_timeout_s for p in manifest.processes)
    first_step = max(ANSWER_LIMIT_S, *(p.ready_timeout_s for p in manifest.processes))
    return [
        ("processes are ready", _processes, starts),
        ("ports accept", _ports, ANSWER_LIMIT_S),
        ("/health is well", _well, ANSWER_LIMIT_S),
        ("/v1/models names the model", _models, ANSWER_LIMIT_S),
        ("every planned worker is there", _workers, ANSWER_LIMIT_S),
        ("a generation is answered", _generation, first_step),
        ("the KV moves as declared", _transports, ANSWER_LIMIT_S),
    ]


def _passes(name: str, attempt: Try, limit_s: float, run: StartedRun) -> Check:
    begin = time.monotonic()
    while True:
        try:
            wrong = attempt(run)
        except (OSError, http.client.HTTPException, ValueError, LookupError, ScrapeError) as error:
            wrong = str(error) or type(error).__name__
        seconds = round(time.monotonic() - begin, 3)
        if not wrong:
            return Check(name=name, state="passed", seconds=seconds)
        if seconds > limit_s:
            return Check(name=name, state="failed", seconds=seconds, said=wrong)
        time.sleep(POLL_S)


# ---- the checks ---------------------------------------------------------------------------------------


def _processes(run: StartedRun) -> str:
    known = {process.name: process for process in run.processes()}
    missing = [spec.name for spec in run.manifest.processes if spec.name not in known]
    if missing:
        return f"no word of {', '.join(missing)}"
    late = [p for p in known.values() if p.state is not State.READY]
    return ", ".join(f"{p.name} is {p.state}" + (f" at {p.what}" if p.what else "") for p in late)


def _ports(run: StartedRun) -> str:
    for url in run.urls():
        connection = _connect(url)
        connection.connect()
        connection.close()
    return ""


def _well(run: StartedRun) -> str:
    for url in run.urls():
        status, said = _get(url, "/health")
        if status != http.client.OK:
            return f"{url}/health answers {status}: {said}"
    return ""


def _models(run: StartedRun) -> str:
    name = run.manifest.model.served_name
    for url in run.urls():
        status, said = _get(url, "/v1/models")
        served = [model["id"] for model in said["data"]] if status == http.client.OK else []
        if name not in served:
            return f"{url}/v1/models answers {status} with {served}, not `{name}`"
    return ""


def _workers(run: StartedRun) -> str:
    planned = Counter(p.role.value for p in run.manifest.processes if p.role.is_worker and p.part == 0)
    for url in run.urls():
        _, said = _get(url, "/health")
        if Counter(said["workers"]) != planned:
            return f"{url} knows {said['workers']}, the plan has {dict(planned)}"
    return ""


def _generation(run: StartedRun) -> str:
    """A prompt that no decode worker keeps to itself, and an answer of exactly the tokens asked for."""
    manifest = run.manifest
    body = {
        "model": manifest.model.served_name,
        "prompt": " a" * _smoke_length(manifest),
        "max_tokens": SMOKE_TOKENS,
        "ignore_eos": True,
        "temperature": 0.0,
    }
    limit_s = max(ANSWER_LIMIT_S, *(p.ready_timeout_s for p in manifest.processes))
    for url in run.urls():
        status, said = _ask(url, "POST", "/v1/completions", body, limit_s)
        tokens = said["usage"]["completion_tokens"] if status == http.client.OK else 0
        if tokens != SMOKE_TOKENS:
            return f"{url} answers {status} with {tokens} tokens of {SMOKE_TOKENS}: {json.dumps(said)[:500]}"
    return ""


def _transports(run: StartedRun) -> str:
    summary: Summary = summarise(run.manifest, scrape_run(run.manifest, run.hosts))
    declared = set(declared_transports(run.manifest))
    used = {transport for transport, moved in summary.moved.items() if moved.blocks}
    if used - declared:
        return f"{', '.join(sorted(used - declared))} moved blocks, the plan declares {', '.join(sorted(declared))}"
    counted = counted_transports(run.manifest)
    if counted and not used:
        return f"no block was moved by {', '.join(counted)}"
    return f"{summary.checksum_failures} blocks arrived with a wrong checksum" if summary.checksum_failures else ""


def _smoke_length(manifest: Manifest) -> int:
    """Tokens: more than the router lets a decode worker prefill, and whole blocks, within the context."""
    bypass = max((p.router.bypass_below_tokens for p in manifest.processes if p.router is not None), default=0)
    workers = [p.worker for p in manifest.processes if p.worker is not None]
    block = max((worker.kv.block_size for worker in workers), default=1)
    context = min((worker.context_length for worker in workers), default=block * SMOKE_BLOCKS + SMOKE_TOKENS)
    return max(1, min(bypass + block * SMOKE_BLOCKS, context - SMOKE_TOKENS))


# ---- asking -------------------------------------------------------------------------------------------


def _get(url: str, path: str) -> tuple[int, Any]:
    return _ask(url, "GET", path, None, ANSWER_LIMIT_S)


def _ask(url: str, method: str, path: str, body: dict[str, Any] | None, limit_s: float) -> tuple[int, Any]:
    """Status and JSON; OSError, HTTPException, ValueError."""
    connection = _connect(url, limit_s)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _connect(url: str, limit_s: float = ANSWER_LIMIT_S) -> http.client.HTTPConnection:
    place = urlsplit(url)
    assert place.hostname is not None
    return http.client.HTTPConnection(place.hostname, place.port, timeout=limit_s)
