"""The errors clause: a full disk stores nothing and passes, an unknown outcome stops the store, damage is found."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

import apsw
import pytest

from sekali.errors import DiskFull, Draining, OutcomeUnknown, SekaliError, StoreCorrupt, StoreUnusable
from sekali.event import ReadQuery
from sekali.store.log import Statement
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import DUPLICATE, STAMP_US, STORED, batch_of, numbered, receipts, rows
from tests.support.stores import WAIT_S_MAX, compact_fully, remove_index

EVERYTHING = ReadQuery()


def append(store: Store, count: int, prefix: str = "e") -> list[tuple[int, int]]:
    return receipts(store.append([batch_of(numbered(count, prefix=prefix))], STAMP_US)[0])


class SmallDisk:
    """SQLite itself says that the disk is full once the file would grow beyond its present size."""

    def __init__(self, store: Store) -> None:
        self._writer = store._log._writer
        pages = self._writer.pragma("page_count")
        self._writer.pragma("max_page_count", pages)

    def grow(self) -> None:
        self._writer.pragma("max_page_count", 1 << 30)


# A full disk


def test_a_full_disk_stores_nothing_and_writing_goes_on_when_there_is_room(open_store: OpenStore) -> None:
    store = open_store()
    append(store, 10)
    before = store.totals(), store.topic_figures(), rows(store.read(EVERYTHING))
    disk = SmallDisk(store)
    for _ in range(3):
        with pytest.raises(DiskFull) as refusal:
            append(store, 5000, "refused")
        assert (refusal.value.retry_after_s or 0) >= 1
        assert (store.totals(), store.topic_figures(), rows(store.read(EVERYTHING))) == before
        assert not store.seen([("alpha", "refused-0")])[0].seen
    assert store.failed is None
    disk.grow()
    assert append(store, 5000, "refused") == [(STORED, offset) for offset in range(11, 5011)]
    store.close()
    assert len(rows(open_store().read(EVERYTHING))) == 5010


def test_a_group_that_met_a_full_disk_is_not_seen_by_one_prepared_meanwhile(store: Store) -> None:
    append(store, 10)
    sent = batch_of(numbered(5000, prefix="same"))
    first, second = store.prepare([sent]), store.prepare([sent])
    disk = SmallDisk(store)
    with pytest.raises(DiskFull):
        store.commit(first, STAMP_US)
    disk.grow()
    assert receipts(store.commit(second, STAMP_US)[0]) == [(STORED, offset) for offset in range(11, 5011)]
    assert receipts(store.commit(first, STAMP_US)[0]) == [(DUPLICATE, offset) for offset in range(11, 5011)]


def test_too_little_free_space_is_a_full_disk_until_there_is_clearly_more(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two water marks, so that it does not flap."""
    free = 1000
    store = open_store(disk_free_bytes_min=500, disk_free_bytes_resume=800)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    taken = []
    for free in (1000, 499, 600, 799, 800, 600, 400, 799, 900):  # noqa: B007  (the disk's free space from here on)
        refusal = store.readiness().refusal
        assert refusal is None or isinstance(refusal, DiskFull)
        try:
            append(store, 1, f"free-{len(taken)}")
            taken.append(True)
        except DiskFull:
            taken.append(False)
        assert taken[-1] == (refusal is None), "readiness says what a publish meets"
    assert taken == [True, False, False, False, True, True, False, False, True]
    assert store.totals().received == 4


# An unknown outcome


@pytest.mark.parametrize("is_written", [False, True])
def test_after_an_unknown_outcome_nothing_is_written_and_reopening_decides(
    open_store: OpenStore, is_written: bool
) -> None:
    """The commit's fsync fails; what the file holds is known only when it is opened again."""
    store = open_store()
    append(store, 3)
    failures: list[SekaliError] = []
    store.add_failure_listener(failures.append)
    write = store._log.write

    def fail(statements: Iterable[Statement], *, durable: bool = True) -> None:
        if is_written:
            write(statements)
        raise OutcomeUnknown("The fsync failed.")

    store._log.write = fail  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        append(store, 2, "unknown")
    store._log.write = write  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(Draining):
            append(store, 1, "later")
    assert failures == [store.failed]
    assert isinstance(store.readiness().refusal, Draining)
    assert [row.offset for row in rows(store.read(EVERYTHING))][:3] == [1, 2, 3]
    store.close()
    store = open_store()
    expected = DUPLICATE if is_written else STORED
    assert append(store, 2, "unknown") == [(expected, 4), (expected, 5)]
    assert store.totals().unique == 5


def test_after_an_unknown_outcome_closing_leaves_the_files_as_they_are(open_store: OpenStore, db_path: Path) -> None:
    """What a failed fsync has left in memory alone must not be built upon."""
    wal = db_path.with_name(db_path.name + "-wal")
    store = open_store()
    append(store, 3)

    def fail(statements: Iterable[Statement], *, durable: bool = True) -> None:
        raise OutcomeUnknown("The fsync failed.")

    store._log.write = fail  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        append(store, 2, "unknown")
    before = db_path.read_bytes(), wal.read_bytes()
    store.close()
    assert (db_path.read_bytes(), wal.read_bytes()) == before
    assert append(open_store(), 3) == [(DUPLICATE, 1), (DUPLICATE, 2), (DUPLICATE, 3)]


# Damage


def flip(db_path: Path, table: str, column: str, key: str, number: int) -> None:
    """Flips one bit of a stored value, past SQLite's own structure."""
    connection = sqlite3.connect(db_path)
    (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE {key} = ?", (number,)).fetchone()
    if isinstance(value, bytes):
        place = len(value) // 2
        value = value[:place] + bytes([value[place] ^ 4]) + value[place + 1 :]
    else:
        value ^= 1
    with connection:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, number))
    connection.close()


def read_until_damage(store: Store) -> list[int]:
    """Offsets of what was given out before StoreCorrupt was raised."""
    offsets: list[int] = []
    runs = store.read(EVERYTHING)
    try:
        for run in runs:
            offsets += run.offsets
    except StoreCorrupt:
        return offsets
    pytest.fail("damage was not found")


def test_a_store_with_a_damaged_young_commit_is_refused(open_store: OpenStore, db_path: Path) -> None:
    store = open_store()
    for number in range(6):
        append(store, 5, f"g{number}")
    store.close()
    flip(db_path, "commits", "block", "commit_no", 4)
    with pytest.raises(StoreUnusable, match="backup"):
        open_store()


@pytest.mark.parametrize(
    "query", [EVERYTHING, ReadQuery(descending=True), ReadQuery(topics=("alpha",)), ReadQuery(after=12, limit=1)]
)
def test_a_read_ends_with_an_error_where_a_young_commit_is_missing(
    open_store: OpenStore, db_path: Path, query: ReadQuery
) -> None:
    """A read that finds a commit gone looks again, since a run may have taken it over; but not for ever."""
    store = open_store()
    for number in range(5):
        append(store, 5, f"g{number}")
    other = apsw.Connection(str(db_path))
    other.execute("DELETE FROM commits WHERE commit_no = 3")
    other.close()
    ended: list[BaseException] = []

    def read() -> None:
        try:
            rows(store.read(query))
        except StoreCorrupt as error:
            ended.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(WAIT_S_MAX)
    assert not reader.is_alive(), "it looks again and again"
    assert "Commits are missing" in str(ended[0])


def test_a_damaged_block_is_not_served_and_the_others_are(open_store: OpenStore, db_path: Path) -> None:
    store = open_store(small_runs=True)
    store.append([batch_of([*numbered(300, topic="a"), *numbered(300, topic="b")])], STAMP_US)
    compact_fully(store)
    store.close()
    flip(db_path, "blocks", "block", "block_no", 3)
    store = open_store(small_runs=True)
    assert set(read_until_damage(store)).isdisjoint(range(81, 121))
    assert len(rows(store.read(ReadQuery(topics=("b",))))) == 300
    with pytest.raises(StoreCorrupt):
        rows(store.read(ReadQuery(topics=("a",))))
    with pytest.raises(StoreCorrupt):
        store.event("a", "e-100")
    assert len(rows([store.event("a", "e-200")])) == 1


@pytest.mark.parametrize(
    ("table", "column", "key"),
    [
        ("totals", "last_offset", "id"),
        ("totals", "duplicates", "id"),
        ("totals", "chain", "id"),
        ("store", "store_id", "id"),
        ("store", "digest_key", "id"),
        ("topics", "events", "topic_id"),
        ("commits", "stamp_us", "commit_no"),
        ("commits", "topics", "commit_no"),
    ],
)
def test_a_store_with_damaged_figures_is_refused(
    open_store: OpenStore, db_path: Path, table: str, column: str, key: str
) -> None:
    store = open_store()
    append(store, 5)
    store.close()
    flip(db_path, table, column, key, 1)
    for _ in range(2):
        with pytest.raises(StoreUnusable, match="backup"):
            open_store()


@pytest.mark.parametrize("column", ["first_commit", "last_commit", "last_offset", "last_at_us", "last_block", "chain"])
def test_a_store_with_a_damaged_run_is_refused_and_left_as_it_is(
    open_store: OpenStore, db_path: Path, column: str
) -> None:
    """What a run says decides which commits are removed as its leftovers."""
    store = open_store(small_runs=True)
    for number in range(20):
        append(store, 100, f"g{number}")
    compact_fully(store)
    store.close()
    flip(db_path, "runs", column, "run_no", 2)
    before = db_path.read_bytes()
    with pytest.raises(StoreUnusable, match="backup"):
        open_store(small_runs=True)
    assert db_path.read_bytes() == before


def test_a_missing_run_is_found_at_opening(open_store: OpenStore, db_path: Path) -> None:
    store = open_store(small_runs=True)
    for number in range(20):
        append(store, 100, f"g{number}")
    compact_fully(store)
    store.close()
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute("DELETE FROM runs WHERE run_no = 2")
    connection.close()
    with pytest.raises(StoreUnusable, match="missing"):
        open_store(small_runs=True)


def test_a_damaged_run_is_found_when_the_index_is_rebuilt_from_it(open_store: OpenStore, db_path: Path) -> None:
    """Keys of damaged events must not be taken for new ones: without them the index is not complete."""
    store = open_store(small_runs=True)
    append(store, 600)
    compact_fully(store)
    store.close()
    remove_index(db_path)
    flip(db_path, "blocks", "block", "block_no", 2)
    with pytest.raises(StoreUnusable, match="backup"):
        open_store(small_runs=True)
