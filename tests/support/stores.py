"""Opening stores in tests, and copying the files of a live one as a crash would leave them."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from sekali.settings import Settings
from sekali.store import store as store_module
from sekali.store.catchup import CatchUp
from sekali.store.compaction import RunSizes, due
from sekali.store.store import Store

WAIT_S_MAX = 30.0
MIB: Final = 1024 * 1024
SMALL_RUNS: Final = RunSizes(run_events=500, run_commits_max=8, block_events=40)
"""Compaction happens every few commits, and a topic's events lie in many blocks."""


def store_settings(path: Path, **values: Any) -> Settings:
    """Settings for a store of a test: small buffers, no patience with another process."""
    chosen: dict[str, Any] = {"index_memtable_bytes": MIB, "predecessor_wait_s": 0.2, "disk_free_bytes_min": 0}
    return Settings(db_path=str(path), **{**chosen, **values})


def wait_for(condition: Callable[[], bool], what: str, *, within_s: float = WAIT_S_MAX) -> None:
    """Returns once `condition()` holds. Raises AssertionError naming `what` when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {within_s} s: {what}"
        time.sleep(0.002)


def wait_index_ready(store: Store) -> Store:
    """The same store, once its seen index is complete and it takes events."""
    wait_for(lambda: store.readiness().index_ready, "the seen index is ready")
    return store


def compact_fully(store: Store) -> Store:
    """The same store, once no run is due any more: its index has every key and the tail is short."""

    def nothing_is_due() -> bool:
        store.compact()
        return not due(store._layout.now.commits, store._maintenance._sizes)

    wait_for(nothing_is_due, "every run that is due is made")
    return store


def crashed_copy(store: Store, db_path: Path, target: Path) -> Path:
    """Copies the files of a live store as kill -9 would leave them, and returns the new path.

    The turn keeps the writer still. A checkpoint beside it may go on: it only copies pages that the write-ahead log,
    which is copied last, holds as well. The index may be copied torn; it is derived.
    """
    target.mkdir(parents=True)
    with store._appender.turn:
        for path in sorted(db_path.parent.rglob("*")):
            if path.is_file() and path.suffix not in (".lock", ".pid") and not path.name.endswith(("-wal", "-shm")):
                copy = target / path.relative_to(db_path.parent)
                copy.parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path, copy)
        wal = db_path.with_name(f"{db_path.name}-wal")
        if wal.exists():
            shutil.copyfile(wal, target / wal.name)
    return target / db_path.name


def index_folder(db_path: Path) -> Path:
    """The seen index of a store: the one folder beside its file."""
    folders = [path for path in db_path.parent.iterdir() if path.is_dir()]
    assert len(folders) == 1, f"one index folder beside {db_path.name}, not {folders}"
    return folders[0]


def remove_index(db_path: Path) -> None:
    shutil.rmtree(index_folder(db_path))


def copy_database(db_path: Path, target: Path) -> Path:
    """Copies a closed store's file, without its index, and returns the new path."""
    target.mkdir(parents=True, exist_ok=True)
    for path in db_path.parent.iterdir():
        if path.is_file() and path.name in (db_path.name, f"{db_path.name}-wal"):
            shutil.copy(path, target / path.name)
    return target / db_path.name


class HeldCatchUp:
    """A rebuild of the seen index that has begun and does not go on until it is released, or the store is closed."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._released = threading.Event()

    def hold(self, catch_up: CatchUp) -> None:
        self._reached.set()
        while not self._released.wait(0.002) and not catch_up._stopped.is_set():
            pass

    def wait_until_reached(self) -> None:
        assert self._reached.wait(WAIT_S_MAX), "the index is not being rebuilt"

    def release(self) -> None:
        self._released.set()


@contextmanager
def held_catch_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldCatchUp]:
    """Every gap is closed in the background, and not before the end of the `with` block."""
    held = HeldCatchUp()
    run = CatchUp.run

    def run_when_released(self: CatchUp) -> bool:
        held.hold(self)
        return run(self)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_CATCH_UP_AT_ONCE_EVENTS", -1)
        patch.setattr(CatchUp, "run", run_when_released)
        try:
            yield held
        finally:
            held.release()
