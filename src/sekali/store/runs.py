"""Runs: stretches of the log that compaction has sorted. A row of `runs` each, all of them known in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

import apsw

from sekali.errors import StoreCorrupt
from sekali.store.log import Statement
from sekali.store.rows import check_row, row_checksum, rows_of

INSERT_RUN: Final = "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT_RUNS: Final = """
    SELECT run_no, first_commit, last_commit, first_offset, last_offset, first_at_us, last_at_us, first_block,
           last_block, chain, checksum FROM runs ORDER BY run_no"""


@dataclass(frozen=True, slots=True)
class Run:
    """A row of `runs`: see schema.sql. With duplicates only, `last_offset` is `first_offset - 1`, and so the blocks."""

    run_no: int
    first_commit: int
    last_commit: int
    first_offset: int
    last_offset: int
    first_at_us: int
    last_at_us: int
    first_block: int
    last_block: int
    chain: bytes

    def insertion(self) -> Statement:
        columns = astuple(self)
        return INSERT_RUN, [(*columns, row_checksum(*columns))]


def load_runs(connection: apsw.Connection) -> list[Run]:
    """All live runs, oldest first. Raises StoreCorrupt, also when they do not run on from each other."""
    runs: list[Run] = []
    next_commit, next_offset, next_block = 1, 1, 1
    for *columns, checksum in rows_of(connection, SELECT_RUNS):
        check_row(f"run {columns[0]}", checksum, *columns)
        run = Run(*columns)
        if (run.first_commit, run.first_offset, run.first_block) != (next_commit, next_offset, next_block):
            raise StoreCorrupt(f"A run is missing before run {run.run_no}. Restore the file from a backup.")
        next_commit, next_offset, next_block = run.last_commit + 1, run.last_offset + 1, run.last_block + 1
        runs.append(run)
    return runs


def run_holding(runs: Sequence[Run], offset: int) -> Run:
    """The run with the event at `offset`, which is no later than the last one's."""
    return runs[bisect_left(runs, offset, key=lambda run: run.last_offset)]


def last_offset_before(runs: Sequence[Run], time_us: int) -> int:
    """No event of a run up to and with this offset was received at `time_us` or later; 0 when there is none such."""
    place = bisect_left(runs, time_us, key=lambda run: run.last_at_us)
    return runs[place - 1].last_offset if place else 0


def first_offset_from(runs: Sequence[Run], time_us: int) -> int | None:
    """Every event of a run from this offset on was received at `time_us` or later; None when no run says so."""
    place = bisect_left(runs, time_us, key=lambda run: run.first_at_us)
    return runs[place].first_offset if place < len(runs) else None
