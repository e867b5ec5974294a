"""The log in SQLite: opening, one transaction at a time for the writer, snapshots for readers, checkpoints.

Every driver error is translated here. A full disk rolls back and is DiskFull; after anything else that went wrong in a
transaction it is not known what the file holds, so it is OutcomeUnknown and the store must stop (the WAL may hold a
commit whose fsync failed; writing on would build upon it. See "How To Corrupt", section 3.1, sqlite.org).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import apsw

from sekali.errors import DiskFull, InternalError, OutcomeUnknown, StoreCorrupt, StoreUnusable
from sekali.store.forks import left_to_parent
from sekali.store.guard import fsync_directory
from sekali.store.rows import check_row, only_row, row_checksum, rows_of, value_of

APPLICATION_ID: Final = 0x53454B41  # "SEKA"
FORMAT_VERSION: Final = 2
"""From the first release on every format is read by all later versions; 1 was before it."""
_SQLITE_SOUND: Final = 3_051_003  # 3.7.0 to 3.51.2 can corrupt a WAL database (sqlite.org/wal.html#walresetbug)
_READERS_KEPT_MAX: Final = 8
_BUSY_TIMEOUT_MS: Final = 10_000
_CHECKPOINT_WAIT_MS: Final = 200
_CHECKPOINT_PAGES: Final = 4_096
_UNREADABLE: Final = (
    apsw.IOError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.ReadOnlyError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.ProtocolError,
    apsw.FullError,
    apsw.NoMemError,
)
"""What reading may meet in a file, a disk or a machine; other errors of SQLite are ours."""

Statement = tuple[str, Sequence[tuple[Any, ...]]]
"""SQL, and what to bind to it for each time it is executed."""


def values(rows: Sequence[tuple[Any, ...]]) -> str:
    """`VALUES (?, ?), (?, ?)` for at least one row. To bind: the rows, one after the other.

    So one statement writes them all, and lets go of the GIL once: where other threads are busy, whoever lets go of it
    waits some milliseconds to get it back.
    """
    row = f"({', '.join('?' * len(rows[0]))})"
    return f"VALUES {', '.join([row] * len(rows))}"


def insertion(table: str, rows: Sequence[tuple[Any, ...]]) -> Statement:
    """The statement that inserts all the rows, of which there is at least one, into one of our tables."""
    return f"INSERT INTO {table} {values(rows)}", [tuple(chain.from_iterable(rows))]


@dataclass(frozen=True, slots=True)
class Identity:
    """What was decided when the store was made."""

    store_id: bytes
    digest_key: bytes


@dataclass(frozen=True, slots=True)
class Totals:
    """The one row of `totals`."""

    commit_no: int = 0
    chain: bytes = bytes(16)
    last_offset: int = 0
    store_time_us: int = 0
    duplicates: int = 0
    conflicts: int = 0
    events: int = 0

    def row(self) -> tuple[Any, ...]:
        return (
            self.commit_no,
            self.chain,
            self.last_offset,
            self.store_time_us,
            self.duplicates,
            self.conflicts,
            self.events,
        )


UPDATE_TOTALS: Final = """
    UPDATE totals SET commit_no = ?, chain = ?, last_offset = ?, store_time_us = ?, duplicates = ?, conflicts = ?,
                      events = ?, checksum = ? WHERE id = 1"""


_SCHEMA_PATH: Final = Path(__file__).parent / "schema.sql"
_SELECT_SCHEMA: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
_SELECT_TOTALS: Final = """
    SELECT commit_no, chain, last_offset, store_time_us, duplicates, conflicts, events, checksum FROM totals
    WHERE id = 1"""


def update_totals(totals: Totals) -> Statement:
    return UPDATE_TOTALS, [(*totals.row(), row_checksum(*totals.row()))]


class Log:
    """The connections to the file.

    One for what is answered for: each of its transactions is synced. One for maintenance, whose transactions become
    durable with the next of the other's, and which makes the checkpoints beside commits. Whoever writes with either
    holds the store's turn. Read-only ones for everybody else.
    """

    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises StoreUnusable with what to do about it."""
        if apsw.SQLITE_VERSION_NUMBER < _SQLITE_SOUND:
            raise StoreUnusable(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt a database in WAL mode; pip install --upgrade apsw"
            )
        self.path = path
        self.wal_path = path.with_name(path.name + "-wal")
        self._readers: list[apsw.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        self._is_left_to_parent = False
        self._wal_pages = 0
        self._checkpoint_at_pages = _CHECKPOINT_PAGES
        if not path.exists() and self.wal_path.exists() and self.wal_path.stat().st_size:
            raise StoreUnusable(
                f"{path} is missing, but {self.wal_path.name} beside it holds events of it. Put the file back, or move "
                "what is left of it away."
            )
        with ExitStack() as undo:
            self._open(undo)
            undo.pop_all()

    def _open(self, undo: ExitStack) -> None:
        """Opens both connections. What is opened is left to `undo` to close. Raises StoreUnusable."""
        path = self.path
        try:
            self._writer = apsw.Connection(str(path))
            undo.callback(_close_quietly, self._writer)
            if self._writer.readonly("main"):
                raise StoreUnusable(f"{path} cannot be written to. Check its owner and permissions.")
            self._prepare_file()
            fsync_directory(path.parent)  # whoever made the file may have ended before that
            self._background = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            undo.callback(_close_quietly, self._background)
            _tuned(self._background, synchronous="normal")
            for connection in (self._writer, self._background):
                connection.set_wal_hook(self._note_wal_pages)
            self.identity = identity_of(self._writer)
            # Before anything is served: after a failed fsync, what the WAL holds may be in memory only.
            frames_left, _ = self._checkpointed(self._writer, apsw.SQLITE_CHECKPOINT_TRUNCATE)
            if frames_left:
                raise StoreUnusable(f"Another program is reading {path}; end it, then start again.")
        except apsw.NotADBError as error:
            raise StoreUnusable(f"{path} is not a SQLite file; point DB_PATH to a new file.") from error
        except apsw.CorruptError as error:
            raise StoreUnusable(f"{path} is damaged ({error}); restore it from a backup.") from error
        except OutcomeUnknown as error:
            raise StoreUnusable(f"{path} cannot be opened: {error.detail}") from error
        except apsw.Error as error:
            raise StoreUnusable(
                f"{path} cannot be opened: {error}. Check the folder, its owner and DB_PATH."
            ) from error

    def _prepare_file(self) -> None:
        writer = _tuned(self._writer)
        application_id = writer.pragma("application_id")
        version = writer.pragma("user_version")
        is_empty = not value_of(writer, "SELECT count(*) FROM sqlite_schema")
        if application_id == 0 and version == 0 and is_empty:
            self._create()
        else:
            check_is_store(writer, self.path)
        writer.pragma("journal_mode", "wal")

    def _create(self) -> None:
        """Makes the file in one transaction: killed half way, it is empty still and is made anew."""
        writer = self._writer
        writer.pragma("auto_vacuum", "incremental")
        writer.pragma("journal_mode", "wal")
        identity = (os.urandom(16), os.urandom(32), time.time_ns() // 1000)
        totals = Totals()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute(_SCHEMA_PATH.read_text("utf-8"))
        writer.execute("INSERT INTO store VALUES (1, ?, ?, ?, ?)", (*identity, row_checksum(*identity)))
        writer.execute(
            "INSERT INTO totals VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)", (*totals.row(), row_checksum(*totals.row()))
        )
        writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        writer.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        writer.execute("COMMIT")
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def read_totals(self) -> Totals:
        return totals_of(self._writer)

    def write(self, statements: Iterable[Statement], *, durable: bool = True) -> None:
        """All statements in one transaction. The caller holds the store's turn.

        With `durable=False` every reader sees it at once, and it becomes durable with the next durable one: a loss of
        power may undo it, and then nothing that came after it is there either. Nobody may be answered for it.
        Raises DiskFull (nothing was written) or OutcomeUnknown (the store must stop).
        """
        with self._transaction(self._writer if durable else self._background) as connection:
            for sql, rows in statements:
                connection.executemany(sql, rows)

    def give_back_pages(self, pages_max: int) -> int:
        """Takes so many unused pages off the file's end; how many unused ones are left. Otherwise as `write`."""
        with self._transaction(self._background) as connection:
            connection.execute(f"PRAGMA incremental_vacuum({pages_max})").fetchall()
        return int(value_of(self._background, "PRAGMA freelist_count"))

    @contextmanager
    def _transaction(self, connection: apsw.Connection) -> Iterator[apsw.Connection]:
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except apsw.FullError as error:
            _roll_back(connection)
            raise DiskFull(f"The disk of {self.path} is full; nothing was stored.", retry_after_s=5) from error
        except apsw.Error as error:
            raise OutcomeUnknown(
                f"The store failed while writing ({error}). Send the same events again after it has restarted.",
                retry_after_s=5,
            ) from error

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """A read-only connection inside one read transaction. Keep it short: it holds back checkpoints.

        Raises StoreCorrupt, and InternalError when the file cannot be read. A wrong statement's own error goes through.
        """
        if self._is_left_to_parent:
            raise left_to_parent()
        with self._readers_lock:
            connection = self._readers.pop() if self._readers else None
        try:
            if connection is None:
                connection = read_only(self.path)
            connection.execute("BEGIN")
            yield connection
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise StoreCorrupt(f"{self.path} is damaged ({error}); restore it from a backup.") from error
        except _UNREADABLE as error:
            raise InternalError(f"{self.path} cannot be read ({error}); look at its disk and folder.") from error
        finally:
            if connection is not None:
                self._give_back(connection)

    def _give_back(self, connection: apsw.Connection) -> None:
        """Keeps a reader's connection for the next one, or closes it."""
        is_sound = True
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except apsw.Error:  # what was read stands, or its own error was raised: only this connection is of no use
                is_sound = False
        with self._readers_lock:
            keep = is_sound and not self._closed and len(self._readers) < _READERS_KEPT_MAX
            if keep:
                self._readers.append(connection)
        if not keep:
            connection.close()

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether the write-ahead log has grown enough since the last checkpoint."""
        return self._wal_pages >= self._checkpoint_at_pages

    def checkpoint(self, *, in_turn: bool) -> None:
        """Copies what it can of the WAL into the database file, beside readers, and beside commits unless `in_turn`.

        Done in the store's turn it reaches the WAL's end, and the next commit starts the WAL over. SQLite's own
        automatic checkpoints are off, since they ignore an I/O error. Raises OutcomeUnknown: the store must stop.
        """
        if not in_turn:
            self._checkpointed(self._background, apsw.SQLITE_CHECKPOINT_PASSIVE)
            return
        must_start_over = self._wal_pages >= 2 * _CHECKPOINT_PAGES
        mode = apsw.SQLITE_CHECKPOINT_RESTART if must_start_over else apsw.SQLITE_CHECKPOINT_PASSIVE
        self._writer.set_busy_timeout(_CHECKPOINT_WAIT_MS)  # readers that overlap would keep the WAL growing for ever
        try:
            _, copied = self._checkpointed(self._writer, mode)
        finally:
            self._writer.set_busy_timeout(_BUSY_TIMEOUT_MS)
        if copied >= self._wal_pages:
            self._wal_pages = 0
        self._checkpoint_at_pages = self._wal_pages + _CHECKPOINT_PAGES

    def truncate_wal(self) -> None:
        """Brings the whole write-ahead log into the file and its space back, unless a reader holds it up.

        In the store's turn. Raises OutcomeUnknown: the store must stop.
        """
        self._writer.set_busy_timeout(_CHECKPOINT_WAIT_MS)
        try:
            frames_left, _ = self._checkpointed(self._writer, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._writer.set_busy_timeout(_BUSY_TIMEOUT_MS)
        if not frames_left:
            self._wal_pages = 0
            self._checkpoint_at_pages = _CHECKPOINT_PAGES

    def _checkpointed(self, connection: apsw.Connection, mode: int) -> tuple[int, int]:
        """(frames in the WAL, frames copied)."""
        try:
            return connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            return 1, 0
        except apsw.FullError as error:
            raise DiskFull(f"The disk of {self.path} is full.", retry_after_s=5) from error
        except apsw.Error as error:
            raise OutcomeUnknown(f"The store failed in a checkpoint ({error}).", retry_after_s=5) from error

    def _note_wal_pages(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def leave_to_parent(self) -> None:
        """In a forked child: reads that were begun before the fork do not go on."""
        self._is_left_to_parent = True

    def close(self, *, keeps_wal: bool = False) -> None:
        """Closes every connection. A read under way keeps its own until it ends.

        `keeps_wal`: after a failure nothing is written any more, also not what SQLite does when the last connection
        closes: bring the write-ahead log into the file, and delete it. Raises OutcomeUnknown when that fails; what was
        answered for is on disk all the same.
        """
        with self._readers_lock:
            self._closed = True
            readers, self._readers = self._readers, []
        failed = None
        for connection in (*readers, self._background, self._writer):
            try:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keeps_wal))
                connection.close()
            except apsw.Error as error:
                failed = error
        if failed is not None:
            raise OutcomeUnknown(f"{self.path} could not be closed ({failed}).") from failed


def check_is_store(connection: apsw.Connection, path: Path) -> None:
    """Raises StoreUnusable when the file at `path` is another program's, or a newer version's."""
    application_id = connection.pragma("application_id")
    if application_id != APPLICATION_ID:
        raise StoreUnusable(
            f"{path} is a SQLite file of another program (application_id {application_id}); "
            "Sekali leaves it as it is. Point DB_PATH to a new file."
        )
    version = connection.pragma("user_version")
    if version > FORMAT_VERSION:
        raise StoreUnusable(
            f"{path} was written by a newer version (format {version}, this one reads {FORMAT_VERSION}); "
            "pip install --upgrade sekali"
        )
    if version < FORMAT_VERSION:
        raise StoreUnusable(
            f"{path} was written before the first release (format {version}), which this version cannot read; "
            "publish the events again into a new file."
        )
    if rows_of(connection, _SELECT_SCHEMA) != _schema():
        raise StoreUnusable(f"{path} is damaged: its tables are not as they were made. Restore it from a backup.")


@cache
def _schema() -> list[tuple[Any, ...]]:
    """The tables of a store."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(_SCHEMA_PATH.read_text("utf-8"))
        return rows_of(connection, _SELECT_SCHEMA)
    finally:
        connection.close()


def identity_of(connection: apsw.Connection) -> Identity:
    """Raises StoreCorrupt."""
    sql = "SELECT store_id, digest_key, created_at_us, checksum FROM store WHERE id = 1"
    store_id, digest_key, created_at_us, checksum = only_row("the store's identity", connection, sql)
    check_row("the store's identity", checksum, store_id, digest_key, created_at_us)
    return Identity(store_id, digest_key)


def totals_of(connection: apsw.Connection) -> Totals:
    """Raises StoreCorrupt."""
    *columns, checksum = only_row("the totals", connection, _SELECT_TOTALS)
    check_row("the totals", checksum, *columns)
    return Totals(*columns)


def open_to_read(path: Path) -> apsw.Connection:
    """The store at `path`, beside whoever serves it. Raises StoreUnusable."""
    if not path.is_file():
        raise StoreUnusable(f"there is no store at {path}")
    try:
        connection = read_only(path)
        try:
            check_is_store(connection, path)
        except BaseException:
            connection.close()
            raise
    except apsw.NotADBError as error:
        raise StoreUnusable(f"{path} is not a SQLite file") from error
    except StoreCorrupt as error:
        raise StoreUnusable(f"{path}: {error.detail}") from error
    except apsw.Error as error:
        raise StoreUnusable(f"{path} cannot be opened: {error}; check the folder and its owner") from error
    return connection


def read_only(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return _tuned(connection)
    except BaseException:
        _close_quietly(connection)
        raise


def _close_quietly(connection: apsw.Connection) -> None:
    with suppress(apsw.Error):
        connection.close()


def _roll_back(connection: apsw.Connection) -> None:
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise OutcomeUnknown(f"The store could not roll back ({error}).", retry_after_s=5) from error


def _tuned(connection: apsw.Connection, synchronous: str = "full") -> apsw.Connection:
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    connection.pragma("synchronous", synchronous)
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("secure_delete", True)
    connection.pragma("trusted_schema", False)
    return connection
