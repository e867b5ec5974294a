"""Compaction: a stretch of the tail becomes a run, sorted by (topic, offset) and cut into blocks.

Built outside the store's turn from rows that no longer change; then written in bounded steps. The new blocks are not
live until the run's row stands, which is the last step; killed before, they are dropped at the next opening. Every
event is rewritten once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import Any, Final

import apsw

from sekali.store.block import Columns, decode_block, decode_integers, encode_integers, encode_run_blocks, pick
from sekali.store.layout import Places
from sekali.store.log import Log, Statement, insertion
from sekali.store.rows import row_checksum, value_of
from sekali.store.runs import Run
from sekali.store.tail import FIELDS_PER_TOPIC, CommitRow, TailCommit, commit_rows

RUN_EVENTS: Final = 16_384
RUN_COMMITS_MAX: Final = 1_024
RUN_RAW_BYTES_MAX: Final = 32 * 1024 * 1024
BLOCK_EVENTS: Final = 1_000
_MANY_TOPICS: Final = 16
"""A run with less than this many events per topic is made four times as long, so that a topic's page reads less."""
_LONGER: Final = 4
_BLOCK_PAYLOAD_BYTES: Final = 1024 * 1024
_STEP_BYTES: Final = 1024 * 1024
_STEP_ROWS: Final = 2_000
_DELETE_COMMITS_PER_STEP: Final = 256

_INSERT_MARK: Final = "INSERT OR REPLACE INTO index_marks VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class RunSizes:
    """When a run is due, and how its blocks are cut."""

    run_events: int = RUN_EVENTS
    run_commits_max: int = RUN_COMMITS_MAX
    block_events: int = BLOCK_EVENTS


@dataclass(slots=True)
class RunDraft:
    """A run that is built and not yet written."""

    run: Run
    topic_ids: list[int]
    """All topics that its commits name, also those with duplicates only."""
    block_steps: list[list[Statement]]


def due(commits: Sequence[TailCommit], sizes: RunSizes) -> list[TailCommit]:
    """The oldest commits of the tail that make a run; none while there are too few.

    An unfiltered page decodes about a run, a topic's page as many blocks as there are runs in its range.
    """
    events = size = 0
    topic_ids: set[int] = set()
    for count, commit in enumerate(commits, 1):
        events += commit.events
        size += commit.raw_bytes
        topic_ids.update(commit.events_by_topic)
        if count >= sizes.run_commits_max or size >= RUN_RAW_BYTES_MAX or events >= _LONGER * sizes.run_events:
            return list(commits[:count])
        if events >= sizes.run_events and events >= _MANY_TOPICS * len(topic_ids):
            return list(commits[:count])
    return []


def build_run(log: Log, places: Places, commits: Sequence[TailCommit], sizes: RunSizes) -> RunDraft:
    """Reads, sorts and compresses the next run. Raises StoreCorrupt when a commit is damaged."""
    first, last = commits[0], commits[-1]
    runs = places.runs
    run_no, first_block = (runs[-1].run_no + 1, runs[-1].last_block + 1) if runs else (1, 1)
    with log.snapshot() as connection:
        rows = commit_rows(connection, first.commit_no, last.commit_no)
    assert len(rows) == len(commits), "nobody else takes commits out of the tail"
    topic_ids, events = _gathered(rows)
    order = sorted(range(len(events)), key=topic_ids.__getitem__)  # stable: by offset within a topic
    blocks = list(_blocks(events, topic_ids, order, run_no, first_block, sizes, Counter(places.events_in_runs)))
    run = Run(
        run_no=run_no,
        first_commit=first.commit_no,
        last_commit=last.commit_no,
        first_offset=first.first_offset,
        last_offset=last.last_offset,
        first_at_us=first.stamp_us,
        last_at_us=last.stamp_us,
        first_block=first_block,
        last_block=first_block + len(blocks) - 1,
        chain=last.chain,
    )
    return RunDraft(
        run=run,
        topic_ids=sorted({topic_id for commit in commits for topic_id in commit.topic_ids}),
        block_steps=_steps(blocks),
    )


def _gathered(rows: Sequence[CommitRow]) -> tuple[list[int], Columns]:
    """All events of the rows in offset order, and each one's topic id."""
    topic_ids: list[int] = []
    ids: list[str] = []
    timestamps: list[str] = []
    sources: list[str] = []
    payloads: list[bytes] = []
    offsets: list[int] = []
    stamps: list[int] = []
    extras: list[bytes] = []
    has_extras = False
    for row in rows:
        if row.block is None:
            continue
        columns = decode_block(row.block, row.events)
        of_index = decode_integers(row.topics)[0::FIELDS_PER_TOPIC]
        topic_ids += [of_index[index] for index in columns.topics]
        ids += columns.event_ids
        timestamps += columns.timestamps
        sources += columns.sources
        payloads += columns.payloads
        extras += columns.extras or [b""] * row.events
        has_extras = has_extras or columns.extras is not None
        offsets += range(row.first_offset, row.first_offset + row.events)
        stamps += [row.stamp_us] * row.events
    events = Columns(topic_ids, ids, timestamps, sources, payloads, extras if has_extras else None, offsets, stamps)
    return topic_ids, events


def _blocks(
    events: Columns,
    topic_ids: Sequence[int],
    places: Sequence[int],
    run_no: int,
    first_block: int,
    sizes: RunSizes,
    events_before: Counter[int],
) -> Iterator[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]:
    """Each block's row, and the rows of `topic_blocks` that lead to it."""
    cuts: list[tuple[Columns, Counter[int]]] = []
    for span in _cuts(events, places, sizes.block_events):
        counts = Counter(pick(topic_ids, span))  # in the order of the span, which is sorted by topic
        columns = events.at(span)
        columns.topics = list(chain.from_iterable(map(repeat, range(len(counts)), counts.values())))
        cuts.append((columns, counts))
    blocks = encode_run_blocks([columns for columns, _ in cuts])
    for block_no, ((columns, counts), block) in enumerate(zip(cuts, blocks, strict=True), first_block):
        offsets = columns.offsets or ()
        topic_rows: list[tuple[Any, ...]] = []
        start = 0
        for topic_id, count in counts.items():
            row = (topic_id, offsets[start], offsets[start + count - 1], count, events_before[topic_id], block_no)
            events_before[topic_id] += count
            topic_rows.append((*row, row_checksum(*row)))
            start += count
        head = (block_no, run_no, min(offsets), max(offsets), len(columns))
        packed = encode_integers(chain.from_iterable(counts.items()))
        yield (*head, row_checksum(*head, packed, block), packed, block), topic_rows


def _cuts(events: Columns, places: Sequence[int], block_events: int) -> Iterator[Sequence[int]]:
    """The sorted places, cut after `block_events` events or about a mebibyte of payload."""
    sizes = list(accumulate(map(len, pick(events.payloads, places))))
    start = 0
    while start < len(places):
        before = sizes[start - 1] if start else 0
        end = min(start + block_events, bisect_left(sizes, before + _BLOCK_PAYLOAD_BYTES, lo=start) + 1, len(places))
        yield places[start:end]
        start = end


def _steps(blocks: Sequence[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]) -> list[list[Statement]]:
    """The blocks' insertions as bounded transactions."""
    steps: list[list[Statement]] = []
    block_rows: list[tuple[Any, ...]] = []
    topic_rows: list[tuple[Any, ...]] = []
    size = 0
    for block_row, leads in blocks:
        block_rows.append(block_row)
        topic_rows += leads
        size += len(block_row[-1])
        if size >= _STEP_BYTES or len(topic_rows) >= _STEP_ROWS:
            steps.append([insertion("blocks", block_rows), insertion("topic_blocks", topic_rows)])
            block_rows, topic_rows, size = [], [], 0
    if block_rows:
        steps.append([insertion("blocks", block_rows), insertion("topic_blocks", topic_rows)])
    return steps


def go_live(draft: RunDraft, marks: Sequence[TailCommit]) -> list[Statement]:
    """The step after which the run answers for its commits. `marks`: those that the seen index may still name."""
    rows = [(mark.commit_no, mark.chain, mark.last_offset) for mark in marks]
    return [
        draft.run.insertion(),
        (_INSERT_MARK, [(*row, row_checksum(*row)) for row in rows]),
    ]


def deletions(draft: RunDraft, oldest_mark: int) -> Iterator[list[Statement]]:
    """The steps that drop the commits a live run has taken over, and marks that the index can't name any more."""
    yield [("DELETE FROM index_marks WHERE commit_no < ?", [(oldest_mark,)])]
    for start in range(draft.run.first_commit, draft.run.last_commit + 1, _DELETE_COMMITS_PER_STEP):
        end = min(start + _DELETE_COMMITS_PER_STEP - 1, draft.run.last_commit)
        yield [("DELETE FROM commits WHERE commit_no BETWEEN ? AND ?", [(start, end)])]


def leftovers(connection: apsw.Connection, runs: Sequence[Run]) -> list[list[Statement]]:
    """Steps that remove what a killed compaction left: blocks of no run, commits of a live one."""
    last_commit, last_block = (runs[-1].last_commit, runs[-1].last_block) if runs else (0, 0)
    steps: list[list[Statement]] = []
    if value_of(connection, "SELECT 1 FROM blocks WHERE block_no > ? LIMIT 1", last_block):
        steps.append(
            [
                ("DELETE FROM topic_blocks WHERE block_no > ?", [(last_block,)]),
                ("DELETE FROM blocks WHERE block_no > ?", [(last_block,)]),
            ]
        )
    if value_of(connection, "SELECT 1 FROM commits WHERE commit_no <= ? LIMIT 1", last_commit):
        steps.append([("DELETE FROM commits WHERE commit_no <= ?", [(last_commit,)])])
    return steps
