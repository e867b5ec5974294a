"""Stores for the contract suite: opened on a fresh folder, closed with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sekali.store.store import Store
from tests.support.stores import SMALL_RUNS, store_settings

OpenStore = Callable[..., Store]


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "store.db"


@pytest.fixture
def open_store(db_path: Path) -> Iterator[OpenStore]:
    """`open_store(path, **settings)` opens a store; the default path is the same for the whole test."""
    opened: list[Store] = []

    def open_one(path: Path | None = None, *, small_runs: bool = False, **values: object) -> Store:
        store = Store.open(store_settings(path or db_path, **values), SMALL_RUNS if small_runs else None)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()
