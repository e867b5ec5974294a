"""The topics of a store and their figures, in memory: exact up to the last commit.

On disk a topic's row holds its figures up to `folded_commit`; what later commits of the tail add is read from their
headers when the store is opened. A row written per topic and commit would cost 2.9 kB of WAL at 5,000 topics.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

import apsw

from sekali.errors import StoreCorrupt
from sekali.event import TopicFigures
from sekali.store.log import Statement, insertion, values
from sekali.store.rows import check_row, row_checksum, rows_of


@dataclass(frozen=True, slots=True)
class TopicCounts:
    """What one commit holds of each of its topics: parallel columns, a topic each.

    `first_places` and `last_places` are those of the topic's first and last event among the commit's new ones; 0 when
    it has none.
    """

    events: Sequence[int]
    duplicates: Sequence[int]
    """Conflicts included."""
    conflicts: Sequence[int]
    first_places: Sequence[int]
    last_places: Sequence[int]


_ROWS_PER_STATEMENT: Final = 1_000
"""SQLite binds 32,766 values to a statement at most."""
_FOLD_TOPICS: Final = """
    WITH folded AS ({values})
    UPDATE topics SET events = column1, duplicates = column2, conflicts = column3, first_offset = column4,
                      last_offset = column5, first_at_us = column6, last_at_us = column7, folded_commit = column8,
                      checksum = column9
    FROM folded WHERE topic_id = column10"""


class TopicBook:
    """Names, ids and figures. Ids are 1, 2, 3, ... in the order in which topics first appeared in the log."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self._figures: list[TopicFigures] = []
        self._sorted_names: list[str] = []
        self._lock = threading.Lock()

    @classmethod
    def load(cls, connection: apsw.Connection) -> tuple[TopicBook, list[int]]:
        """The book as folded on disk, and each topic's folded commit (by id - 1). Raises StoreCorrupt."""
        book = cls()
        folded: list[int] = []
        rows = rows_of(
            connection,
            """SELECT topic_id, name, events, duplicates, conflicts, first_offset, last_offset, first_at_us, last_at_us,
                      folded_commit, checksum FROM topics ORDER BY topic_id""",
        )
        for topic_id, name, *figures, folded_commit, checksum in rows:
            check_row(f"topic {topic_id}", checksum, topic_id, name, *figures, folded_commit)
            if topic_id != len(book) + 1:
                raise StoreCorrupt(f"Topic {len(book) + 1} is missing from the log. Restore the file from a backup.")
            book.add(name, topic_id)
            book._figures[topic_id - 1] = TopicFigures(name, *figures)
            folded.append(folded_commit)
        return book, folded

    def __len__(self) -> int:
        return len(self._figures)

    def name(self, topic_id: int) -> str:
        return self._figures[topic_id - 1].name

    def events(self, topic_id: int) -> int:
        return self._figures[topic_id - 1].events

    def add(self, name: str, topic_id: int) -> None:
        assert topic_id == len(self._figures) + 1, "topic ids are given out in order"
        with self._lock:
            self.ids[name] = topic_id
            self._figures.append(TopicFigures(name))
            insort(self._sorted_names, name)

    def apply(
        self,
        ids: Sequence[int],
        counts: TopicCounts,
        first_offset: int,
        stamp_us: int,
        skip: Container[int] = frozenset(),
    ) -> None:
        """Adds a commit's counts for the topics `ids`. `first_offset`: of its first event. `skip`: these ids are left
        out, their figures have the commit already."""
        figures_of = self._figures
        with self._lock:
            for topic_id, events, first, last in zip(
                ids, counts.events, counts.first_places, counts.last_places, strict=True
            ):
                if events and topic_id not in skip:
                    figures = figures_of[topic_id - 1]
                    if not figures.events:
                        figures.first_offset, figures.first_at_us = first_offset + first, stamp_us
                    figures.events += events
                    figures.last_offset, figures.last_at_us = first_offset + last, stamp_us
            if any(counts.duplicates):
                for topic_id, duplicates, conflicts in zip(ids, counts.duplicates, counts.conflicts, strict=True):
                    if topic_id not in skip:
                        figures_of[topic_id - 1].duplicates += duplicates
                        figures_of[topic_id - 1].conflicts += conflicts

    def names(self, limit: int) -> list[str]:
        with self._lock:
            return self._sorted_names[:limit]

    def figures(self, after: str, limit: int) -> list[TopicFigures]:
        """Copies, sorted by name (by code point, which is UTF-8 byte order), those after `after`."""
        with self._lock:
            start = bisect_right(self._sorted_names, after) if after else 0
            return [replace(self._figures[self.ids[name] - 1]) for name in self._sorted_names[start : start + limit]]

    def fold(self, topic_ids: Sequence[int], commit_no: int) -> Statement:
        """The statement that writes these topics' figures as of `commit_no`, the last one applied."""
        rows = []
        with self._lock:
            for topic_id in topic_ids:
                figures = _columns(self._figures[topic_id - 1])
                checksum = row_checksum(topic_id, self.name(topic_id), *figures, commit_no)
                rows.append((*figures, commit_no, checksum, topic_id))
        return _FOLD_TOPICS.format(values=values(rows)), [tuple(chain.from_iterable(rows))]


def insert_topics(names: Sequence[str], first_id: int) -> list[Statement]:
    """The statements that register new topics, their figures still all zero."""
    zeros = (0,) * 8
    rows = [
        (topic_id, name, *zeros, row_checksum(topic_id, name, *zeros)) for topic_id, name in enumerate(names, first_id)
    ]
    return [insertion("topics", rows[i : i + _ROWS_PER_STATEMENT]) for i in range(0, len(rows), _ROWS_PER_STATEMENT)]


def _columns(figures: TopicFigures) -> tuple[Any, ...]:
    return (
        figures.events,
        figures.duplicates,
        figures.conflicts,
        figures.first_offset,
        figures.last_offset,
        figures.first_at_us,
        figures.last_at_us,
    )
