"""Opening: what is refused and with which words, who may share a store, and what happens when its file goes away."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import apsw
import pytest

from sekali.errors import Draining, OutcomeUnknown, SekaliError, StoreLocked, StoreUnusable
from sekali.event import ReadQuery
from sekali.store import log
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.serving import ROOT
from tests.support.events import STAMP_US, batch_of, numbered, receipts, rows
from tests.support.stores import store_settings

HOLD_A_STORE = """
    import sys
    from sekali.settings import Settings
    from sekali.store.store import Store
    store = Store.open(Settings(db_path=sys.argv[1], predecessor_wait_s=float(sys.argv[2])))
    print("open", flush=True)
    sys.stdin.readline()
    store.close()
    print("closed", flush=True)
"""


class Holder:
    """Another process that has the store open until it is told to let go."""

    def __init__(self, path: Path, wait_s: float = 0.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLD_A_STORE), str(path), str(wait_s)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_for_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def append(store: Store, count: int, prefix: str = "e") -> list[tuple[int, int]]:
    return receipts(store.append([batch_of(numbered(count, prefix=prefix))], STAMP_US)[0])


def offsets(store: Store) -> list[int]:
    return [row.offset for row in rows(store.read(ReadQuery()))]


# Sharing


def test_a_second_handle_in_one_process_is_the_same_open_store(open_store: OpenStore) -> None:
    one = open_store()
    other = open_store()
    append(one, 3)
    assert offsets(other) == [1, 2, 3]
    one.close()
    assert [offset for _, offset in append(other, 2, "more")] == [4, 5]
    other.close()
    assert offsets(open_store()) == [1, 2, 3, 4, 5]


def test_another_name_of_the_same_file_is_the_same_open_store(open_store: OpenStore, db_path: Path) -> None:
    one = open_store()
    append(one, 3)
    roundabout = db_path.parent / ".." / db_path.parent.name / db_path.name
    link = db_path.parent.parent / "link"
    link.symlink_to(db_path.parent)
    for path in (roundabout, link / db_path.name):
        assert offsets(open_store(path)) == [1, 2, 3]


def test_stores_of_two_paths_know_nothing_of_each_other(open_store: OpenStore, tmp_path: Path) -> None:
    one, other = open_store(tmp_path / "a" / "store.db"), open_store(tmp_path / "b" / "store.db")
    assert append(one, 3) == append(other, 3)
    beside = open_store(tmp_path / "a" / "second.db")
    assert append(beside, 3) == [(0, 1), (0, 2), (0, 3)]


def test_another_process_is_refused_and_told_which_one_holds_the_store(db_path: Path) -> None:
    with Holder(db_path) as holder:
        assert holder.wait_for_line() == "open"
        begun = time.monotonic()
        with pytest.raises(StoreLocked, match=rf"\b{holder.process.pid}\b"):
            Store.open(store_settings(db_path, predecessor_wait_s=0.3))
        assert 0.3 <= time.monotonic() - begun < 5


def test_a_process_waits_for_its_predecessor_to_let_go(open_store: OpenStore, db_path: Path) -> None:
    store = open_store()
    append(store, 5)
    with Holder(db_path, wait_s=30) as successor:
        store.close()
        assert successor.wait_for_line() == "open"


def test_a_killed_process_leaves_no_lock_behind(open_store: OpenStore, db_path: Path) -> None:
    with Holder(db_path) as holder:
        assert holder.wait_for_line() == "open"
        holder.process.kill()
        holder.process.wait()
        assert append(open_store(), 1) == [(0, 1)]


# Refusals


def test_folders_are_made(open_store: OpenStore, tmp_path: Path) -> None:
    assert append(open_store(tmp_path / "a" / "b" / "c" / "store.db"), 1) == [(0, 1)]


def test_a_relative_path_and_a_name_with_odd_characters_work(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("store.db", "a folder/%2e?x=#1 \u00e9.db", "file:odd.db"):
        store = open_store(Path(name))
        append(store, 2)
        store.close()
        assert (tmp_path / name).is_file()
        reopened = open_store(Path(name))
        assert offsets(reopened) == [1, 2]
        reopened.close()


def test_a_sqlite_file_of_another_program_is_left_as_it_is(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="DB_PATH"):
        open_store(path)
    assert path.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.is_dir()], "no index is made beside a refused file"


def test_a_file_that_is_not_sqlite_is_left_as_it_is(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"shopping list " * 1000)
    with pytest.raises(StoreUnusable, match="DB_PATH"):
        open_store(path)
    assert path.read_bytes() == b"shopping list " * 1000


def test_an_empty_file_becomes_a_store(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    assert append(open_store(tmp_path / "empty.db"), 1) == [(0, 1)]


@pytest.mark.parametrize(("other", "said"), [(1, "newer"), (-1, "before the first release")])
def test_a_store_of_a_newer_version_is_refused_and_one_from_before_the_first_release(
    open_store: OpenStore, db_path: Path, other: int, said: str
) -> None:
    store = open_store()
    append(store, 1)
    store.close()
    connection = sqlite3.connect(db_path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version + other}")
    connection.close()
    with pytest.raises(StoreUnusable, match=said):
        open_store()


def test_a_folder_in_place_of_the_file_is_refused(open_store: OpenStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="DB_PATH"):
        open_store(tmp_path)


@pytest.mark.parametrize("below", ["store.db", "deeper/store.db"])
def test_a_path_below_a_file_is_refused(open_store: OpenStore, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnusable):
        open_store(tmp_path / "file" / below)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_refused(open_store: OpenStore) -> None:
    with pytest.raises(StoreUnusable):
        open_store(Path("/proc/self/store.db"))


def test_a_file_that_can_only_be_read_is_refused(
    open_store: OpenStore, db_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself opens it all the same, for reading. (Root may write whatever the permissions say.)"""
    store = open_store()
    append(store, 1)
    store.close()
    connect = apsw.Connection
    monkeypatch.setattr(log.apsw, "Connection", lambda path, **_: connect(path, flags=apsw.SQLITE_OPEN_READONLY))
    with pytest.raises(StoreUnusable, match="cannot be written to"):
        open_store()


def test_a_store_of_which_only_the_write_ahead_log_is_left_is_not_made_anew(
    open_store: OpenStore, db_path: Path
) -> None:
    wal = db_path.with_name(db_path.name + "-wal")
    db_path.parent.mkdir()
    wal.write_bytes(b"frames")
    with pytest.raises(StoreUnusable, match="is missing"):
        open_store()
    assert wal.read_bytes() == b"frames"


def test_a_refused_opening_leaves_no_lock_behind(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database" * 500)
    for _ in range(2):
        with pytest.raises(StoreUnusable):
            open_store(path)
    path.unlink()
    assert append(open_store(path), 1) == [(0, 1)]


# The file goes away while it is served


def refuses_for_good(store: Store) -> None:
    with pytest.raises(OutcomeUnknown):
        append(store, 1, "after")
    with pytest.raises(SekaliError):
        append(store, 1, "after")
    assert isinstance(store.failed, SekaliError)
    assert isinstance(store.readiness().refusal, Draining)


def test_a_group_is_not_acknowledged_once_the_file_was_unlinked(open_store: OpenStore, db_path: Path) -> None:
    store = open_store()
    append(store, 3)
    failures: list[SekaliError] = []
    store.add_failure_listener(failures.append)
    db_path.unlink()
    refuses_for_good(store)
    assert len(failures) == 1
    store.close()
    with pytest.raises(StoreUnusable, match="is missing"):
        open_store()  # what was stored may be in the write-ahead log still: not to be made anew without a word


def test_a_group_is_not_acknowledged_once_the_file_was_replaced(
    open_store: OpenStore, db_path: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    store = open_store()
    append(store, 3)
    store.close()
    older.mkdir()
    shutil.copy(db_path, older / db_path.name)
    store = open_store()
    append(store, 3, "more")
    (older / db_path.name).replace(db_path)
    refuses_for_good(store)
    store.close()
    db_path.with_name(db_path.name + "-wal").unlink()  # the write-ahead log of the file that is gone
    assert offsets(open_store()) == [1, 2, 3]


def test_a_group_is_not_acknowledged_once_the_write_ahead_log_was_unlinked(
    open_store: OpenStore, db_path: Path
) -> None:
    store = open_store()
    append(store, 3)
    wal = db_path.with_name(db_path.name + "-wal")
    assert wal.exists()
    wal.unlink()
    refuses_for_good(store)
