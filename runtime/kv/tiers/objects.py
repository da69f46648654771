"""G4: one object per page, named after its content, shared by every worker of the model."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from dynamoc.runtime.kv.tiers.breaker import Breaker
from dynamoc.runtime.kv.tiers.lane import Lane
from dynamoc.runtime.kv.tiers.ledger import Entry, Ledger, Skip
from dynamoc.runtime.kv.tiers.page import PageError, PageFormat, PageKey, assemble
from dynamoc.runtime.kv.tiers.rate import Rate
from dynamoc.runtime.kv.tiers.store import Failure, Frame

THREADS = 8
WAITING_STORES = 64
REQUEST_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 2.0
RETRIES = 2
RETRY_WITHIN_S = 15.0
MOST_PAGES = 1 << 20
"""Known at once, where the store's size is not bounded."""
ASSUMED_BYTES_PER_S = 2e8

log = logging.getLogger(__name__)

Run = tuple[int, int]
"""First head and count."""


class Objects:
    """A `Store` at `url`: `s3://bucket/prefix` with the usual AWS_* variables, `file:///folder`, `memory:///`.

    When it fails three times in a row it is off for a while: nothing is asked of it, and no request waits for it.
    """

    name = "G4"
    latency_s = 0.02
    least_read_bytes: int | None = None
    """Each page is a request, which costs more than what is saved by asking for less of it."""

    def __init__(self, url: str, size: int | None, format_: PageFormat, request_timeout_s: float | None = None) -> None:
        self.url = url
        self._format = format_
        self._folder = format_.digest.hex()
        self._run: Run = (format_.heads.first, format_.heads.count)
        self._store = open_store(url, REQUEST_TIMEOUT_S if request_timeout_s is None else request_timeout_s)
        self._root = _folder_of(url)
        self._breaker = Breaker()
        self._others: dict[bytes, set[Run]] = {}
        """Pages that only ranks with other heads stored."""
        capacity = MOST_PAGES if size is None else size // format_.frame_bytes
        self.ledger = Ledger(self.name, capacity, self._evict)
        self.lane = Lane("object", THREADS, WAITING_STORES)
        self.reading = Rate(ASSUMED_BYTES_PER_S)

    @property
    def is_up(self) -> bool:
        """Whether it is not paused after failures."""
        return self._breaker.is_up

    def begin(self, key: PageKey) -> Entry | Skip:
        """A place, unless the store is off."""
        return self.ledger.begin(key) if self.is_up else Skip.OFF

    def write(self, entries: Sequence[Entry], frames: Sequence[Frame]) -> list[Failure | Skip | None]:
        """Create an object for each frame; one that exists already has the same content."""
        return [self._put(entry, frame) for entry, frame in zip(entries, frames, strict=True)]

    def read(self, entries: Sequence[Entry], pieces: Sequence[memoryview], start: int = 0) -> list[Failure | None]:
        """Fill whole frames from objects that are exactly as long."""
        assert not start, "pages are read whole"
        return [self._get(entry.key, frame) for entry, frame in zip(entries, pieces, strict=True)]

    def discard(self, entry: Entry) -> None:
        """Delete the object, so that someone stores a whole one."""
        self.ledger.drop(entry)
        self._delete(entry.key.name)

    def refresh(self) -> None:
        """Learn what other workers stored."""
        if not self.is_up:
            return
        runs: dict[bytes, set[Run]] = {}
        try:
            for batch in obstore.list(self._store, prefix=self._folder):
                for found in batch:
                    name, run = _parse(found["path"])
                    if name is not None and run is not None:
                        runs.setdefault(name, set()).add(run)
                if len(runs) >= self.ledger.capacity:
                    break
        except (BaseError, OSError) as error:
            self._failed("list", error)
            return
        self._breaker.succeeded()
        self._others = {name: found for name, found in runs.items() if self._run not in found}
        wanted = set(range(self._run[0], sum(self._run)))
        self.ledger.adopt(name for name, found in runs.items() if wanted <= _heads(found))

    def close(self, timeout_s: float) -> None:
        """Finish what waits; the objects stay."""
        self.lane.close(timeout_s)

    # ---- inside -------------------------------------------------------------------------------------------

    def _put(self, entry: Entry, frame: Frame) -> Failure | Skip | None:
        if not self.is_up:
            self.ledger.abort(entry)
            return Skip.OFF
        try:
            obstore.put(self._store, self._path(entry.key.name, self._run), frame, mode="create", use_multipart=False)
        except AlreadyExistsError:
            log.debug("another worker stored it first")
        except (BaseError, OSError) as error:
            self.ledger.abort(entry)
            return self._failed("put", error)
        self._breaker.succeeded()
        self.ledger.commit(entry)
        return None

    def _get(self, key: PageKey, frame: memoryview) -> Failure | None:
        if not self.is_up:
            return Failure("off")
        try:
            if key.name in self._others:
                parts = [self._fetch(key.name, run) for run in sorted(self._others[key.name])]
                assemble(self._format, key, parts, frame)
            else:
                self._fetch_into(self._path(key.name, self._run), frame)
        except FileNotFoundError:
            self._breaker.succeeded()
            return Failure("missing", lost=True)
        except PageError as error:
            log.warning("object %s: %s", key.name.hex(), error)
            return Failure("corrupt", lost=True)
        except (BaseError, OSError) as error:
            return self._failed("get", error)
        self._breaker.succeeded()
        return None

    def _fetch_into(self, path: str, frame: memoryview) -> None:
        # A file goes straight into the frame: by way of the client's own memory it costs three times the processor.
        size = self._download(path, frame) if self._root is None else _read_file(self._root / path, frame)
        if size != len(frame):
            raise PageError(f"{size} bytes instead of {len(frame)}")

    def _download(self, path: str, frame: memoryview) -> int:
        """The size of the object, which fills the frame if that is as long."""
        answer = obstore.get(self._store, path)
        if answer.meta["size"] != len(frame):
            return int(answer.meta["size"])
        data = answer.bytes()
        if len(data) == len(frame):
            frame[:] = memoryview(data)
        return len(data)

    def _fetch(self, name: bytes, run: Run) -> memoryview:
        return memoryview(obstore.get(self._store, self._path(name, run)).bytes())

    def _evict(self, entries: list[Entry]) -> None:
        for entry in entries:
            # Should the line be full, the object outlives its entry until a refresh finds it again.
            self.lane.store(functools.partial(self._delete, entry.key.name))

    def _delete(self, name: bytes) -> None:
        try:
            obstore.delete(self._store, self._path(name, self._run))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            self._failed("delete", error)

    def _failed(self, what: str, error: Exception) -> Failure:
        if self._breaker.failed():
            log.warning("the object store at %s is off for a while: %s failed: %s", self.url, what, _brief(error))
        return Failure("store")

    def _path(self, name: bytes, run: Run) -> str:
        return f"{self._folder}/{name.hex()}/{run[0]}-{run[1]}"


def open_store(url: str, request_timeout_s: float) -> Any:
    """The client of a store; ValueError if the URL names none."""
    scheme = url.partition("://")[0]
    try:
        if scheme == "file":
            return from_url(url, mkdir=True)
        if scheme == "memory":
            return from_url(url)
        client = {
            "timeout": f"{request_timeout_s:g}s",
            "connect_timeout": f"{min(CONNECT_TIMEOUT_S, request_timeout_s):g}s",
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true",
        }
        retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_WITHIN_S)}
        return from_url(url, client_options=client, retry_config=retry)  # type: ignore[call-overload]
    except (BaseError, TypeError) as error:
        raise ValueError(f"object store `{url}`: {_brief(error)}") from error


def _folder_of(url: str) -> Path | None:
    """Where the objects are files of this host, if they are."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _read_file(path: Path, frame: memoryview) -> int:
    """The size of the file, which fills the frame if that is as long."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return file.readinto(frame) if size == len(frame) else size


def _parse(path: str) -> tuple[bytes | None, Run | None]:
    """The page and the heads an object's name stands for; None for objects that are not ours."""
    try:
        name, run = path.rsplit("/", 2)[1:]
        first, count = run.split("-")
        return bytes.fromhex(name), (int(first), int(count))
    except ValueError:
        return None, None


def _heads(runs: set[Run]) -> set[int]:
    return {head for first, count in runs for head in range(first, first + count)}


def _brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
