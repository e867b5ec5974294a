"""Rows that are gone, which no checksum tells: the log has to run on from its first commit to its totals."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sekali.errors import StoreUnusable
from sekali.event import ReadQuery
from sekali.store.runs import Run
from sekali.store.store import Store
from sekali.store.tail import CommitRow
from tests.contract.conftest import OpenStore
from tests.support.events import STAMP_US, batch_of, numbered, rows
from tests.support.stores import compact_fully, index_folder


def fill(store: Store, commits: int, events: int = 10, prefix: str = "e") -> None:
    for number in range(commits):
        store.append([batch_of(numbered(events, prefix=f"{prefix}{number}"))], STAMP_US + number)


def query(db_path: Path, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
    """What a statement gives, in a transaction of its own; the store is closed."""
    connection = sqlite3.connect(db_path)
    try:
        with connection:
            return connection.execute(sql, bindings).fetchall()
    finally:
        connection.close()


def is_refused(open_store: OpenStore, what: str) -> None:
    for _ in range(2):
        with pytest.raises(StoreUnusable, match=f"{what}.* Restore the file from a backup"):
            open_store(small_runs=True)


@pytest.fixture
def tail_only(open_store: OpenStore) -> None:
    """Six commits, none in a run."""
    store = open_store()
    fill(store, 6)
    store.close()


@pytest.fixture
def runs_and_tail(open_store: OpenStore, db_path: Path) -> None:
    """Three runs of eight commits, one of them with duplicates only, and three commits in the tail."""
    store = open_store(small_runs=True)
    for prefix in ("a", "a", "b"):
        fill(store, 8, prefix=prefix)
        compact_fully(store)
    fill(store, 3, prefix="c")
    store.close()
    found = query(db_path, "SELECT first_commit, last_commit, first_offset, last_offset FROM runs ORDER BY run_no")
    assert found == [(1, 8, 1, 80), (9, 16, 81, 80), (17, 24, 81, 160)]


@pytest.mark.usefixtures("tail_only")
@pytest.mark.parametrize("commit_no", [1, 3, 5])
def test_a_young_commit_that_is_missing_is_named_when_opening(
    open_store: OpenStore, db_path: Path, commit_no: int
) -> None:
    query(db_path, "DELETE FROM commits WHERE commit_no = ?", commit_no)
    is_refused(open_store, f"Commit {commit_no} is missing")


@pytest.mark.usefixtures("tail_only")
@pytest.mark.parametrize("first_gone", [1, 6])
def test_the_last_commits_may_not_be_missing_either(open_store: OpenStore, db_path: Path, first_gone: int) -> None:
    query(db_path, "DELETE FROM commits WHERE commit_no >= ?", first_gone)
    is_refused(open_store, "do not belong together")


def test_totals_older_than_the_last_commit_are_refused(open_store: OpenStore, db_path: Path) -> None:
    store = open_store()
    fill(store, 4)
    store.close()
    (totals,) = query(db_path, "SELECT * FROM totals")
    store = open_store()
    fill(store, 1, prefix="later")
    store.close()
    query(db_path, f"REPLACE INTO totals VALUES ({', '.join('?' * len(totals))})", *totals)
    is_refused(open_store, "do not belong together")


@pytest.mark.usefixtures("tail_only")
def test_a_commit_whose_offsets_do_not_run_on_is_refused(open_store: OpenStore, db_path: Path) -> None:
    columns = "commit_no, first_offset, events, stamp_us, chain, topics, block"
    (found,) = query(db_path, f"SELECT {columns} FROM commits WHERE commit_no = 3")
    commit_no, first_offset, *others = found
    sql, (values,) = CommitRow(commit_no, first_offset + 1, *others).insertion()
    query(db_path, "DELETE FROM commits WHERE commit_no = 3")
    query(db_path, sql, *values)
    is_refused(open_store, "Commit 3 is missing")


@pytest.mark.usefixtures("runs_and_tail")
@pytest.mark.parametrize(
    ("run_no", "what"),
    [(1, "A run is missing before run 2"), (2, "A run is missing before run 3"), (3, "Commit 17 is missing")],
)
def test_a_run_that_is_missing_is_named_when_opening_and_its_blocks_are_kept(
    open_store: OpenStore, db_path: Path, run_no: int, what: str
) -> None:
    """Without its row a run's blocks look like what a killed compaction left behind."""
    (run,) = query(db_path, "SELECT * FROM runs WHERE run_no = ?", run_no)
    query(db_path, "DELETE FROM runs WHERE run_no = ?", run_no)
    is_refused(open_store, what)
    query(db_path, f"INSERT INTO runs VALUES ({', '.join('?' * len(run))})", *run)
    assert len(rows(open_store(small_runs=True).read(ReadQuery()))) == 190


@pytest.mark.usefixtures("runs_and_tail")
def test_runs_whose_offsets_do_not_run_on_are_refused(open_store: OpenStore, db_path: Path) -> None:
    (found,) = query(db_path, "SELECT * FROM runs WHERE run_no = 3")
    run = Run(*found[:-1])
    sql, (values,) = replace(run, first_offset=run.first_offset + 1).insertion()
    query(db_path, "DELETE FROM runs WHERE run_no = 3")
    query(db_path, sql, *values)
    is_refused(open_store, "A run is missing before run 3")


@pytest.mark.usefixtures("runs_and_tail")
def test_a_refused_store_has_kept_its_index(open_store: OpenStore, db_path: Path) -> None:
    tables = sorted(path.name for path in index_folder(db_path).glob("*.sst"))
    query(db_path, "DELETE FROM runs WHERE run_no = 2")
    is_refused(open_store, "A run is missing before run 3")
    assert sorted(path.name for path in index_folder(db_path).glob("*.sst")) == tables


@pytest.mark.parametrize("topic", ["alpha", "beta"])
def test_a_topic_that_is_missing_is_found_when_opening(open_store: OpenStore, db_path: Path, topic: str) -> None:
    store = open_store()
    store.append([batch_of([*numbered(3, topic="alpha"), *numbered(3, topic="beta")])], STAMP_US)
    store.close()
    query(db_path, "DELETE FROM topics WHERE name = ?", topic)
    is_refused(open_store, "opic.* is missing")
