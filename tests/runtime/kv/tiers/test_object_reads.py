"""How pages come out of an object store: side by side, from wherever the URL says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import obstore
import pytest
from tier_kit import WAIT_S, Rig, chain, objects, rig

from dynamoc.runtime.kv.tiers.ledger import Entry
from dynamoc.runtime.kv.tiers.objects import THREADS, Objects
from dynamoc.runtime.kv.tiers.store import Failure
from dynamoc.runtime.manifest import CacheSettings, ObjectTier

KEYS = chain("objects", THREADS)


def store_of(one: Rig) -> Objects:
    (store,) = one.stack.stores
    assert isinstance(store, Objects)
    return store


def test_every_thread_has_a_request_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pages as threads: none waits for another's answer."""
    with rig(objects(tmp_path)) as one:
        one.store(KEYS)
        store, together = store_of(one), threading.Barrier(THREADS)
        read = store.read

        def all_at_once(entries: Sequence[Entry], pieces: Sequence[memoryview], start: int) -> list[Failure | None]:
            together.wait(WAIT_S)
            return read(entries, pieces, start)

        monkeypatch.setattr(store, "read", all_at_once)

        assert one.load(KEYS) == THREADS


@pytest.mark.parametrize("name", ["plain", "with blank", "with %20 in it", "ünïcödé", "a+b"])
def test_pages_come_back_from_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    with rig(CacheSettings(object=ObjectTier(f"file://{quote(str(folder))}"), admission="all")) as one:
        one.store(KEYS)

        assert len([path for path in folder.rglob("*") if path.is_file()]) == THREADS
        assert one.load(KEYS) == THREADS


@pytest.mark.parametrize("damage", ["short", "long", "flipped", "gone"])
def test_an_object_that_is_not_whole_ends_the_prefix(damage: str) -> None:
    """Through the client's own memory; files are damaged elsewhere."""
    with rig(CacheSettings(object=ObjectTier("memory:///"), admission="all")) as one:
        one.store(KEYS)
        store = store_of(one)
        client, path = store._store, store._path(KEYS[3].name, store._run)
        whole = bytes(obstore.get(client, path).bytes())
        if damage == "gone":
            obstore.delete(client, path)
        else:
            wrong = {"short": whole[:-1], "long": whole + b"\0", "flipped": whole[:-4000] + b"\xff" + whole[-3999:]}
            obstore.put(client, path, wrong[damage])

        assert one.load(KEYS) == 3
