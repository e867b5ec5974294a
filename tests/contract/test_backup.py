"""Backing up: the copy is the log up to some commit, opens as a store, and is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from sekali.errors import BackupRefused, StoreCorrupt, StoreUnusable
from sekali.event import ReadQuery
from sekali.store import backup
from sekali.store.backup import Backup, back_up
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import DUPLICATE, STAMP_US, STORED, batch_of, numbered, receipts, rows
from tests.support.stores import crashed_copy, wait_for, wait_index_ready

EVERYTHING = ReadQuery()


def append(store: Store, prefix: str, count: int = 20) -> list[tuple[int, int]]:
    (outcome,) = store.append([batch_of(numbered(count, prefix=prefix))], STAMP_US)
    return receipts(outcome)


def publishing(store: Store) -> Callable[[], None]:
    """Appends on a thread of its own, until the function returned is called."""
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.is_set():
            append(store, f"load-{number}")
            number += 1

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def test_a_copy_made_under_load_is_the_log_up_to_a_commit_and_opens_as_a_store(
    open_store: OpenStore, db_path: Path, tmp_path: Path
) -> None:
    store = open_store(small_runs=True)
    copies: list[tuple[int, Path, Backup]] = []
    end = publishing(store)
    try:
        for number in range(8):
            before = store.last_offset
            wait_for(lambda before=before: store.last_offset > before, "publishing goes on")  # type: ignore[misc]
            known = store.last_offset
            target = tmp_path / f"copy-{number}.db"
            copies.append((known, target, back_up(db_path, target)))
    finally:
        end()
    log = rows(store.read(EVERYTHING))
    for known, target, written in copies:
        copy = wait_index_ready(open_store(target))
        assert written.events == copy.last_offset >= known
        assert copy.last_offset % 20 == 0, "no commit is cut"
        assert rows(copy.read(EVERYTHING)) == log[: written.events]
        assert {status for status, _ in append(copy, "load-0")} == {DUPLICATE}
        assert {status for status, _ in append(copy, "new")} == {STORED}


def test_a_copy_has_what_is_only_in_the_write_ahead_log_of_a_killed_server(
    store: Store, db_path: Path, tmp_path: Path, open_store: OpenStore
) -> None:
    append(store, "e")
    killed = crashed_copy(store, db_path, tmp_path / "killed")
    assert killed.with_name("store.db-wal").stat().st_size > 0
    assert back_up(killed, tmp_path / "copy.db").events == 20
    assert rows(open_store(tmp_path / "copy.db").read(EVERYTHING)) == rows(store.read(EVERYTHING))


def test_a_stopped_store_can_be_copied_and_opened_afterwards(
    open_store: OpenStore, db_path: Path, tmp_path: Path
) -> None:
    store = open_store()
    append(store, "e")
    store.close()
    db_path.chmod(0o640)
    written = back_up(db_path, tmp_path / "copy.db")
    assert written == Backup(20, (tmp_path / "copy.db").stat().st_size)
    if os.name == "posix":
        assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o640
    assert {status for status, _ in append(open_store(), "more")} == {STORED}


def test_a_file_is_replaced_only_when_asked_for(store: Store, db_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    back_up(db_path, target)
    append(store, "e")
    with pytest.raises(BackupRefused, match="--force"):
        back_up(db_path, target)
    assert back_up(db_path, target, replace=True).events == 20
    target.with_name("copy.db-wal").touch()  # as a backup of the copy may leave it: empty
    assert back_up(db_path, target, replace=True).events == 20


def test_a_store_that_is_open_is_no_target_even_by_force(open_store: OpenStore, store: Store, db_path: Path) -> None:
    """Its server would go on writing beside the copy, and what it wrote would be played into the copy."""
    append(store, "e")
    other = db_path.with_name("other.db")
    served = open_store(other)
    with pytest.raises(BackupRefused, match="has open"):
        back_up(db_path, other, replace=True)
    append(served, "mine", 5)
    served.close()
    assert back_up(db_path, other, replace=True).events == 20
    assert len(rows(open_store(other).read(EVERYTHING))) == 20


def make_leftover_wal(folder: Path) -> Path:
    (folder / "used.db-wal").write_bytes(b"frames")
    return folder / "used.db"


@pytest.mark.parametrize(
    ("target_in", "words"),
    [
        (lambda folder: folder / "missing" / "copy.db", "there is no folder"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "store" / "store.db", "the store itself"),
        (make_leftover_wal, "in use as a store, or was"),
    ],
)
def test_a_target_that_cannot_be_is_refused_even_by_force(
    store: Store, db_path: Path, tmp_path: Path, target_in: Callable[[Path], Path], words: str
) -> None:
    append(store, "e")
    with pytest.raises(BackupRefused, match=words):
        back_up(db_path, target_in(tmp_path), replace=True)
    assert store.last_offset == 20
    assert list(tmp_path.glob("**/*.part")) == []


def test_a_disk_without_room_is_refused_before_it_is_filled(
    store: Store, db_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(store, "e")
    full = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(backup.shutil, "disk_usage", lambda _: full)
    with pytest.raises(BackupRefused, match="4,096 bytes free"):
        back_up(db_path, tmp_path / "copy.db")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(store: Store, db_path: Path, tmp_path: Path) -> None:
    append(store, "e")
    (tmp_path / "theirs").mkdir(mode=0o500)
    with pytest.raises(BackupRefused, match="Permission denied"):
        back_up(db_path, tmp_path / "theirs" / "copy.db")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("my diary, volume one" * 100)
    sqlite3.connect(tmp_path / "theirs.db").execute("CREATE TABLE t (x)").connection.close()
    for name, words in (("text.db", "not a SQLite file"), ("theirs.db", "another program"), ("none.db", "no store")):
        with pytest.raises(StoreUnusable, match=words):
            back_up(tmp_path / name, tmp_path / "copy.db")
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "copy.db").exists()


def test_a_store_whose_figures_are_damaged_is_not_passed_off_as_a_backup(
    open_store: OpenStore, db_path: Path, tmp_path: Path
) -> None:
    store = open_store()
    append(store, "e")
    store.close()
    with sqlite3.connect(db_path) as connection:
        connection.execute("UPDATE totals SET events = events + 1")
    connection.close()
    with pytest.raises(StoreCorrupt):
        back_up(db_path, tmp_path / "copy.db")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_copying_that_is_interrupted_leaves_the_target_as_it_was(store: Store, db_path: Path, tmp_path: Path) -> None:
    append(store, "e")
    target = tmp_path / "copy.db"
    target.write_bytes(b"last week's")

    def interrupt(done_bytes: int, total_bytes: int) -> NoReturn:
        assert 0 <= done_bytes <= total_bytes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(db_path, target, replace=True, on_progress=interrupt)
    assert target.read_bytes() == b"last week's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "store"]
    append(store, "goes on")
