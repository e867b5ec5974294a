"""The log in SQLite: its write-ahead log starts over though somebody always reads, and what it raises is ours."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from sekali.errors import InternalError, SekaliError, StoreCorrupt, StoreUnusable
from sekali.event import ReadQuery
from sekali.store import log as log_module
from sekali.store import maintenance
from sekali.store.log import Log
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import DUPLICATE, STAMP_US, STORED, batch_of, numbered, receipts, rows
from tests.support.stores import compact_fully, crashed_copy, wait_for

CHECKPOINT_PAGES = 16


def append(store: Store, count: int, prefix: str = "e") -> list[tuple[int, int]]:
    return receipts(store.append([batch_of(numbered(count, prefix=prefix))], STAMP_US)[0])


# The write-ahead log


class CountingFile(apsw.VFSFile):
    """A file of SQLite that counts how often it is synced."""

    def __init__(self, base: str, name: Any, flags: list[int], syncs: Counter[str]) -> None:
        super().__init__(base, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._kind = "wal" if path.endswith("-wal") else "database"
        self._syncs = syncs

    def xSync(self, flags: int) -> None:  # noqa: N802  (apsw's name)
        self._syncs[self._kind] += 1
        self._syncs[f"{self._kind} bytes"] = self.xFileSize()
        super().xSync(flags)


class CountingVfs(apsw.VFS):
    def __init__(self) -> None:
        self._base = apsw.vfs_names()[0]
        self.syncs: Counter[str] = Counter()
        super().__init__("counting", self._base, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> CountingFile:  # noqa: N802  (apsw's name)
        return CountingFile(self._base, name, flags, self.syncs)


@pytest.fixture
def syncs() -> Iterator[Counter[str]]:
    """How often files opened from here on were synced, by kind, and how large they were at the last time."""
    vfs = CountingVfs()
    yield vfs.syncs
    vfs.unregister()


def test_a_commit_is_one_sync_and_a_compaction_none(syncs: Counter[str], open_store: OpenStore) -> None:
    """What a compaction writes is durable with the next commit: on a slow disk it must not hold commits up."""
    store = open_store(small_runs=True)
    append(store, 1)
    syncs.clear()
    for number in range(30):
        append(store, 100, f"g{number}")
    assert syncs["wal"] == 30
    compact_fully(store)
    assert store._layout.now.runs
    assert (syncs["wal"], syncs["database"]) == (30, 0)


def test_a_loss_of_power_undoes_a_compaction_and_nothing_else(
    syncs: Counter[str], open_store: OpenStore, db_path: Path, tmp_path: Path
) -> None:
    store = open_store(small_runs=True)
    for number in range(30):
        append(store, 100, f"g{number}")
    compact_fully(store)
    runs = len(store._layout.now.runs)
    copy = crashed_copy(store, db_path, tmp_path / "cut")
    wal = copy.with_name(copy.name + "-wal")
    wal.write_bytes(wal.read_bytes()[: syncs["wal bytes"]])
    cut = open_store(copy, small_runs=True)
    assert len(cut._layout.now.runs) < runs
    assert [row.event_id for row in rows(cut.read(ReadQuery()))] == [
        row.event_id for row in rows(store.read(ReadQuery()))
    ]
    assert {status for status, _ in append(cut, 100, "g29")} == {DUPLICATE}
    assert append(cut, 1, "after") == [(STORED, 3_001)]


def test_space_that_a_burst_has_left_behind_is_given_back(
    open_store: OpenStore, db_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_IDLE_S", 0.01)
    wal = db_path.with_name(db_path.name + "-wal")
    store = open_store(small_runs=True)
    for number in range(60):
        append(store, 200, f"g{number}")
    compact_fully(store)

    def is_tidy() -> bool:
        with store._log.snapshot() as connection:
            return connection.pragma("freelist_count") == 0 and wal.stat().st_size == 0

    wait_for(is_tidy, "no page is unused and the write-ahead log is empty")
    assert append(store, 1, "after") == [(0, 12_001)]
    assert len(rows(store.read(ReadQuery()))) == 12_001


class OverlappingReaders:
    """Somebody always reads: a reader ends once the next one has begun, which is after the next commit.

    During a checkpoint that waits for readers, there is no commit to wait for, and they go on following each other.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._moved = threading.Condition()
        self._commits = self._commits_read = 0
        self._is_waited_for = self._stops = False
        self._thread = threading.Thread(target=self._follow_each_other)
        checkpointed = log._checkpointed

        def told(connection: apsw.Connection, mode: int) -> tuple[int, int]:
            self._move(is_waited_for=mode != apsw.SQLITE_CHECKPOINT_PASSIVE)
            try:
                return checkpointed(connection, mode)
            finally:
                self._move(is_waited_for=False)

        log._checkpointed = told  # type: ignore[method-assign]

    def _move(self, *, is_waited_for: bool) -> None:
        with self._moved:
            self._is_waited_for = is_waited_for
            self._moved.notify_all()

    def after_commit(self) -> None:
        """Returns once a reader has begun that sees the commit just made."""
        with self._moved:
            self._commits += 1
            self._moved.notify_all()
            assert self._moved.wait_for(lambda: self._commits_read == self._commits, timeout=30)

    def _follow_each_other(self) -> None:
        reading = ExitStack()
        while True:
            with self._moved:
                self._moved.wait_for(lambda: self._stops or self._is_waited_for or self._commits_read < self._commits)
                if self._stops:
                    reading.close()
                    return
                commits = self._commits
            following = ExitStack()
            following.enter_context(self._log.snapshot()).execute("SELECT count(*) FROM commits").fetchall()
            reading.close()
            reading = following
            with self._moved:
                self._commits_read = commits
                self._moved.notify_all()

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            with self._moved:
                self._stops = True
                self._moved.notify_all()
            self._thread.join()


def test_the_write_ahead_log_does_not_grow_without_bound_while_somebody_always_reads(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_CHECKPOINT_PAGES", CHECKPOINT_PAGES)
    store = open_store()
    store._maintenance.notice = lambda: None  # type: ignore[method-assign]
    readers = OverlappingReaders(store._log)
    pages: list[int] = []
    with readers.running():
        for number in range(60):
            append(store, 100, f"g{number}")
            pages.append(store._log._wal_pages)
            readers.after_commit()
            store._maintenance.checkpoint_when_large()
    a_commit = pages[0]
    assert max(pages) <= 4 * CHECKPOINT_PAGES
    assert 60 * a_commit > 8 * CHECKPOINT_PAGES, "without starting over it would have grown beyond that"
    assert store.failed is None
    assert len(rows(store.read(ReadQuery()))) == 6_000


def test_opening_is_refused_while_another_program_reads_what_is_not_yet_in_the_file(
    open_store: OpenStore, db_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served like that, a commit whose sync once failed could be built upon."""
    monkeypatch.setattr(log_module, "_BUSY_TIMEOUT_MS", 50)
    store = open_store()
    append(store, 3)
    other = apsw.Connection(str(db_path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM commits").fetchall()
        store.close()
        assert store._log.wal_path.stat().st_size > 0
        for _ in range(2):
            with pytest.raises(StoreUnusable, match=f"Another program is reading {db_path}; end it"):
                open_store()
        other.execute("ROLLBACK")
        store = open_store()
    finally:
        other.close()
    assert [offset for _, offset in append(store, 1, "more")] == [4]
    assert len(rows(store.read(ReadQuery()))) == 4


# Errors of the driver


@pytest.mark.parametrize(
    ("met", "told"),
    [
        (apsw.CorruptError, StoreCorrupt),
        (apsw.NotADBError, StoreCorrupt),
        (apsw.IOError, InternalError),
        (apsw.CantOpenError, InternalError),
        (apsw.BusyError, InternalError),
        (apsw.ReadOnlyError, InternalError),
    ],
)
def test_what_reading_the_file_meets_is_told_as_an_error_of_ours(
    store: Store, met: type[apsw.Error], told: type[SekaliError]
) -> None:
    append(store, 3)
    with pytest.raises(told, match=rf"{store._log.path} .*\(seen by SQLite\)"), store._log.snapshot():
        raise met("seen by SQLite")
    assert len(rows(store.read(ReadQuery()))) == 3, "the next read finds a connection in order"


def test_a_wrong_statement_is_an_error_of_the_program_and_stays_one(store: Store) -> None:
    with pytest.raises(apsw.SQLError, match="no such table"), store._log.snapshot() as connection:
        connection.execute("SELECT * FROM nowhere")
    assert rows(store.read(ReadQuery())) == []


def test_a_read_that_no_longer_finds_the_file_says_so(store: Store, db_path: Path) -> None:
    """The connections that are open go on reading it; a further one can't be had."""
    append(store, 3)
    with ExitStack() as readers:
        for _ in range(len(store._log._readers)):
            readers.enter_context(store._log.snapshot())
        db_path.rename(db_path.with_name("moved.db"))
        with pytest.raises(InternalError, match=f"{db_path} cannot be read"):
            rows(store.read(ReadQuery()))
    assert len(rows(store.read(ReadQuery()))) == 3


def test_a_read_that_finds_no_database_any_more_is_damage(store: Store, db_path: Path) -> None:
    append(store, 3)
    with store._appender.turn:
        store._log.checkpoint(in_turn=True)
    with db_path.open("r+b") as file:
        file.write(b"no header" * 100)
    with pytest.raises(StoreCorrupt, match="backup"):
        rows(store.read(ReadQuery()))
