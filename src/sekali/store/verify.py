"""Looking through a whole store for damage, whether a server has it open or not.

Contract of `verify`:

- **Complete.** Every row is read and its checksum compared, every block decoded; runs, tail and ledger run on without a
  gap, and what they hold adds up to the totals, to each topic's figures, and to the look-up by topic.
- **Goes on.** Damage is noted, and the rest looked through all the same; only where what names the events is damaged
  (totals, runs, topics, the tail's rows), there is nothing to compare the rest with.
- **Beside.** The file is opened for reading only. A served store goes on: what is looked through is the store as it was
  at one moment, the tail in one read transaction, the rest, which no longer changes, in short ones.
- **Not looked at.** The seen index, which is derived, has checksums of its own, and is made anew when they do not hold.
- **Errors.** StoreUnusable: there is no store that this version reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import apsw

from sekali.errors import StoreCorrupt
from sekali.event import LedgerQuery, TopicFigures
from sekali.store.block import Columns, decode_block, decode_integers
from sekali.store.layout import load_layout
from sekali.store.ledger import LedgerWindow, entries_of, ledger_window
from sekali.store.log import Totals, identity_of, open_to_read, totals_of
from sekali.store.rows import check_row, rows_of
from sekali.store.runs import Run, load_runs
from sekali.store.tail import CommitRow, commit_rows, decode_topics
from sekali.store.topics import TopicBook

PROBLEMS_KEPT_MAX: Final = 100
_BLOCKS_AT_A_TIME: Final = 16
_TOPIC_BLOCKS_AT_A_TIME: Final = 4_096
_SELECT_BLOCKS: Final = """
    SELECT block_no, run_no, first_offset, last_offset, events, topics, block, checksum FROM blocks
    WHERE block_no BETWEEN ? AND ?"""
_SELECT_TOPIC_BLOCKS: Final = """
    SELECT topic_id, first_offset, last_offset, events, events_before, block_no, checksum FROM topic_blocks
    WHERE (topic_id, first_offset) > (?, ?) ORDER BY topic_id, first_offset LIMIT ?"""

OnProgress = Callable[[int, int], None]
"""Events looked through, and how many there are. May raise: the looking ends with that."""


@dataclass(slots=True)
class Verification:
    """What was looked through, and what is wrong with it: the first problems in words, and how many there are."""

    events: int = 0
    duplicates: int = 0
    problems: list[str] = field(default_factory=list)
    problems_total: int = 0

    def note(self, problem: str) -> None:
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_KEPT_MAX:
            self.problems.append(problem)


def verify(source: Path, on_progress: OnProgress | None = None) -> Verification:
    """Look through the store at `source`. See the module."""
    connection = open_to_read(source)
    try:
        return _Verifier(connection, on_progress or (lambda _done, _total: None)).look()
    finally:
        connection.close()


class _Verifier:
    def __init__(self, connection: apsw.Connection, on_progress: OnProgress) -> None:
        self._connection = connection
        self._on_progress = on_progress
        self._found = Verification()
        self._counted: defaultdict[int, TopicFigures] = defaultdict(lambda: TopicFigures(""))
        """By topic id, what the log and the ledger hold."""
        self._leads: defaultdict[int, int] = defaultdict(int)
        """By topic id, the sum of the checksums of the rows that should lead to its blocks."""

    def look(self) -> Verification:
        with self._noting(), self._snapshot():
            for (line,) in rows_of(self._connection, f"PRAGMA quick_check({PROBLEMS_KEPT_MAX})"):
                if line != "ok":
                    self._found.note(f"SQLite finds: {line}")
        with self._noting(), self._snapshot():
            identity_of(self._connection)
        named = self._names()
        if named is not None:
            totals, runs, topics, tail = named
            for run in runs:
                with self._noting():
                    self._run(run, totals.events)
            for commit in tail:
                with self._noting():
                    self._commit(commit)
            self._ledger(totals, topics)
            with self._noting():
                self._topic_blocks(runs[-1].last_block if runs else 0)
            self._compare(totals, topics)
        return self._found

    def _names(self) -> tuple[Totals, list[Run], TopicBook, list[CommitRow]] | None:
        """What names the events, and the tail, as of one moment; None where it is damaged."""
        named = None
        with self._noting(), self._snapshot():
            totals = totals_of(self._connection)
            runs = load_runs(self._connection)
            topics, _ = load_layout(self._connection, totals, runs)
            tail = commit_rows(self._connection, runs[-1].last_commit + 1 if runs else 1, totals.commit_no)
            named = (totals, runs, topics, tail)
        return named  # noqa: RET504  (None where something is damaged)

    # Runs and tail

    def _run(self, run: Run, events_total: int) -> None:
        offsets: list[int] = []
        times: list[int] = []
        for first in range(run.first_block, run.last_block + 1, _BLOCKS_AT_A_TIME):
            last = min(first + _BLOCKS_AT_A_TIME - 1, run.last_block)
            with self._snapshot():
                rows = {row[0]: row for row in rows_of(self._connection, _SELECT_BLOCKS, first, last)}
            for block_no in range(first, last + 1):
                with self._noting():
                    columns = self._block(block_no, rows.get(block_no), run)
                    offsets += columns.offsets or ()
                    times += columns.received_at_us or ()
            self._on_progress(min(run.first_offset + len(offsets), events_total), events_total)
        if sorted(offsets) != list(range(run.first_offset, run.last_offset + 1)):
            self._found.note(f"Run {run.run_no} does not hold each offset of {run.first_offset} to {run.last_offset}.")
        if any(later < earlier for (_, earlier), (_, later) in pairwise(sorted(zip(offsets, times, strict=True)))):
            self._found.note(f"Store time steps back within run {run.run_no}.")

    def _block(self, block_no: int, row: Sequence[Any] | None, run: Run) -> Columns:
        if row is None:
            raise StoreCorrupt(f"Block {block_no} is missing.")
        *columns_of_row, checksum = row
        check_row(f"block {block_no}", checksum, *columns_of_row)
        _, run_no, first_offset, last_offset, events, topics, block = columns_of_row
        columns = decode_block(block, events)
        offsets, times = columns.offsets, columns.received_at_us
        if offsets is None or times is None or run_no != run.run_no:
            raise StoreCorrupt(f"Block {block_no} is none of run {run.run_no}.")
        if (min(offsets), max(offsets)) != (first_offset, last_offset):
            raise StoreCorrupt(f"Block {block_no} holds other offsets than its row says.")
        fields = decode_integers(topics)
        if sum(fields[1::2]) != events:
            raise StoreCorrupt(f"Block {block_no} holds {events} events, and its topics {sum(fields[1::2])}.")
        start = 0
        for topic_id, count in zip(fields[0::2], fields[1::2], strict=True):
            end = start + count
            events_before = self._counted[topic_id].events
            self._count(topic_id, offsets[start:end], times[start:end])
            self._leads[topic_id] += hash((topic_id, offsets[start], offsets[end - 1], count, events_before, block_no))
            start = end
        self._found.events += events
        return columns

    def _commit(self, commit: CommitRow) -> None:
        if commit.block is None:
            return
        columns = decode_block(commit.block, commit.events)
        ids, counts = decode_topics(commit.topics)
        places: list[list[int]] = [[] for _ in ids]
        for place, index in enumerate(columns.topics):
            places[index].append(commit.first_offset + place)
        for topic_id, offsets, events in zip(ids, places, counts.events, strict=True):
            if len(offsets) != events:
                raise StoreCorrupt(f"Commit {commit.commit_no} holds {len(offsets)} events of a topic, not {events}.")
            if offsets:
                self._count(topic_id, offsets, [commit.stamp_us] * len(offsets))
        self._found.events += commit.events

    def _count(self, topic_id: int, offsets: Sequence[int], times: Sequence[int]) -> None:
        """Of a topic's events, which come by rising offset from block to block."""
        if any(later <= earlier for earlier, later in pairwise(offsets)):
            raise StoreCorrupt(f"Events of topic {topic_id} are out of order about offset {offsets[0]}.")
        figures = self._counted[topic_id]
        if not figures.events:
            figures.first_offset, figures.first_at_us = offsets[0], times[0]
        figures.events += len(offsets)
        figures.last_offset, figures.last_at_us = offsets[-1], times[-1]

    # What is kept beside the events

    def _ledger(self, totals: Totals, topics: TopicBook) -> None:
        query: LedgerQuery | None = LedgerQuery()
        while query is not None:
            window = LedgerWindow([], None)
            with self._noting(), self._snapshot():
                window = ledger_window(self._connection, query, totals)
            for row in window.rows:
                with self._noting():
                    for entry in entries_of(row):
                        topic_id = topics.ids.get(entry.topic)
                        if topic_id is None or entry.offset > totals.last_offset:
                            raise StoreCorrupt(
                                f"The ledger of commit {row.commit_no} names what the log does not hold."
                            )
                        self._counted[topic_id].duplicates += 1
                        self._counted[topic_id].conflicts += entry.is_conflict
                        self._found.duplicates += 1
            query = LedgerQuery(start=window.following) if window.following else None

    def _topic_blocks(self, last_block: int) -> None:
        """The rows that lead to blocks as they were when the looking began."""
        leads: defaultdict[int, int] = defaultdict(int)
        place = (0, 0)
        while True:
            with self._snapshot():
                rows = rows_of(self._connection, _SELECT_TOPIC_BLOCKS, *place, _TOPIC_BLOCKS_AT_A_TIME)
            for *row, checksum in rows:
                check_row(f"the look-up of topic {row[0]}", checksum, *row)
                if row[-1] <= last_block:
                    leads[row[0]] += hash(tuple(row))
            if len(rows) < _TOPIC_BLOCKS_AT_A_TIME:
                break
            place = rows[-1][:2]
        for topic_id in sorted(leads.keys() | self._leads.keys()):
            if leads[topic_id] != self._leads[topic_id]:
                self._found.note(f"The look-up of topic {topic_id} does not lead to all of its blocks, or to others.")

    def _compare(self, totals: Totals, topics: TopicBook) -> None:
        found = self._found
        if found.problems:
            return  # what could not be read is missing from every sum
        conflicts = sum(figures.conflicts for figures in self._counted.values())
        for what, counted, said in (
            ("events", found.events, totals.events),
            ("duplicates", found.duplicates, totals.duplicates),
            ("conflicts", conflicts, totals.conflicts),
        ):
            if counted != said:
                found.note(f"The totals say {said} {what}; there are {counted}.")
        for figures in topics.figures("", len(topics)):
            counted_figures = replace(self._counted[topics.ids[figures.name]], name=figures.name)
            if counted_figures != figures:
                found.note(f"The figures of topic {figures.name!r} are not those of its events.")

    # How it is looked

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """What is damaged inside is noted; what comes after it goes on."""
        try:
            yield
        except StoreCorrupt as error:
            self._found.note(error.detail.partition(" Restore ")[0])
        except apsw.Error as error:
            self._found.note(f"SQLite cannot read a part of the file: {error}.")
