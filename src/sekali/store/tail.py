"""The tail: commits that no run has taken over yet, as their readers see them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import apsw

from sekali.store.block import decode_integers, encode_integers, raw_bytes
from sekali.store.log import Statement
from sekali.store.rows import check_row, row_checksum, rows_of
from sekali.store.topics import TopicCounts

FIELDS_PER_TOPIC: Final = 6
INSERT_COMMIT: Final = "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class CommitRow:
    """A row of `commits`.

    `topics` holds six integers for each topic, in the order in which the block's indexes name them: id, events,
    duplicates, conflicts, and the places of its first and last event in the block (0 when it has none).
    """

    commit_no: int
    first_offset: int
    events: int
    stamp_us: int
    chain: bytes
    topics: bytes
    block: bytes | None

    def insertion(self) -> Statement:
        columns = (self.commit_no, self.first_offset, self.events, self.stamp_us, self.chain)
        return INSERT_COMMIT, [(*columns, row_checksum(*columns, self.topics, self.block), self.topics, self.block)]


SELECT_COMMITS: Final = """
    SELECT commit_no, first_offset, events, stamp_us, chain, topics, block, checksum FROM commits
    WHERE commit_no BETWEEN ? AND ? ORDER BY commit_no"""


def commit_rows(connection: apsw.Connection, first: int, last: int) -> list[CommitRow]:
    """The rows of these commits that are there. Raises StoreCorrupt."""
    rows = []
    for *columns, checksum in rows_of(connection, SELECT_COMMITS, first, last):
        check_row(f"commit {columns[0]}", checksum, *columns)
        rows.append(CommitRow(*columns))
    return rows


@dataclass(frozen=True, slots=True)
class TailCommit:
    """What memory keeps of a commit: enough to know whether its block must be read."""

    commit_no: int
    first_offset: int
    events: int
    stamp_us: int
    chain: bytes
    raw_bytes: int
    """Of its block, decompressed."""
    topic_ids: tuple[int, ...]
    """In the order in which its block's topic indexes name them."""
    events_by_topic: dict[int, int]

    @property
    def last_offset(self) -> int:
        return self.first_offset + self.events - 1


def encode_topics(ids: Sequence[int], counts: TopicCounts) -> bytes:
    """The `topics` column of a commit's row."""
    columns = (ids, counts.events, counts.duplicates, counts.conflicts, counts.first_places, counts.last_places)
    return encode_integers(chain.from_iterable(zip(*columns, strict=True)))


def decode_topics(topics: bytes) -> tuple[list[int], TopicCounts]:
    """The inverse of `encode_topics`. Raises StoreCorrupt."""
    fields = decode_integers(topics)
    ids, *counts = (fields[place::FIELDS_PER_TOPIC] for place in range(FIELDS_PER_TOPIC))
    return ids, TopicCounts(*counts)


def tail_commit(row: CommitRow, ids: Sequence[int], counts: TopicCounts) -> TailCommit:
    """A commit's row as the tail keeps it."""
    events_by_topic = dict(zip(ids, counts.events, strict=True))
    if not all(counts.events):
        events_by_topic = {topic_id: events for topic_id, events in events_by_topic.items() if events}
    return TailCommit(
        commit_no=row.commit_no,
        first_offset=row.first_offset,
        events=row.events,
        stamp_us=row.stamp_us,
        chain=row.chain,
        raw_bytes=raw_bytes(row.block),
        topic_ids=tuple(ids),
        events_by_topic=events_by_topic,
    )


def first_reaching(commits: list[TailCommit], offset: int) -> int:
    """The place of the first commit that may hold this offset or a later one."""
    return bisect_left(commits, offset, key=_last_offset)


def _last_offset(commit: TailCommit) -> int:
    return commit.last_offset
