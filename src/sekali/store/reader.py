"""Reading the log: runs of sorted blocks first, then the tail; in either direction, from any offset.

Every step reads a bounded window of blocks in one short read transaction, closes it, and only then decodes. What is
served is bound by offset, so a compaction between two steps changes nothing: a run holds what its commits held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from sekali.errors import StoreCorrupt
from sekali.event import ReadQuery, StoredEvents
from sekali.store.block import decode_integers
from sekali.store.layout import Layout, Places
from sekali.store.log import Log
from sekali.store.rows import check_row, integers_of, rows_of
from sekali.store.runs import Run, first_offset_from, last_offset_before, run_holding
from sekali.store.tail import CommitRow, TailCommit, commit_rows, first_reaching
from sekali.store.topics import TopicBook
from sekali.store.window import WINDOW_EVENTS, Loaded, Scan, Window, decoded, matching

_ENTRIES_PER_TOPIC: Final = 64
_TAIL_BYTES_MAX: Final = 8 * 1024 * 1024
_BLOCKS_MAX: Final = 32
"""Of a window over runs, which goes on to the end of the run it has come to: a block is some 2 MiB decompressed."""
YIELD_EVENTS_MAX: Final = 8_192
_EVENT_IDS_COST_MAX: Final = 64 * 1024 * 1024
_BLOCK_COST: Final = 64 * 1024
"""Looking event ids up ends past these bytes of payloads; reading a block counts as so many more."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A block that may hold what is looked for: its number, offset range and number of candidate events."""

    block_no: int
    first_offset: int
    last_offset: int
    events: int


class Reader:
    """Thread-safe: it only reads the log, its layout and the topics' names."""

    def __init__(self, log: Log, topics: TopicBook, layout: Layout) -> None:
        self._log = log
        self._topics = topics
        self._layout = layout
        self.blocks_read = 0
        """Blocks and commit rows decoded since opening; a statistic that shows what a read cost."""

    def read(self, query: ReadQuery, end: int) -> Iterator[StoredEvents]:
        """Runs of matching events up to offset `end`; an empty one where a stretch held none, so that the caller gets
        to stop a long search. Raises StoreCorrupt at the damaged row.
        """
        ids = [self._topics.ids.get(name) for name in query.topics]
        topic_ids = frozenset(topic_id for topic_id in ids if topic_id is not None)
        if query.topics and not topic_ids:
            return
        high = end if query.before is None else min(end, query.before - 1)
        scan = Scan(
            topic_ids,
            query.source,
            query.since_us,
            query.until_us,
            query.descending,
            query.after + 1,
            high,
            query.limit,
        )
        self._narrow_by_time(scan)
        while scan.low <= scan.high and scan.left != 0:
            window = self._next_window(scan)
            events = matching(window, scan, self._topics)
            if scan.descending:
                scan.high = window.low - 1
            else:
                scan.low = window.high + 1
            if scan.left is not None:
                scan.left -= len(events)
            for start in range(0, max(1, len(events)), YIELD_EVENTS_MAX):
                yield events.part(start, start + YIELD_EVENTS_MAX)

    def event_at(self, topic_id: int, offset: int) -> StoredEvents:
        """The one event of that topic at that offset. Raises StoreCorrupt when it is not there."""
        scan = Scan(frozenset((topic_id,)), None, None, None, False, offset, offset, 1)
        events = matching(self._next_window(scan), scan, self._topics)
        if len(events) != 1:
            raise StoreCorrupt(f"The event at offset {offset} is missing from the log. Restore the file from a backup.")
        return events

    def payloads_at(self, wanted: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        """(offset, payload) once for each of the (topic_id, offset) pairs; neighbours are read together.

        Holds the payloads of one window at a time. Raises StoreCorrupt when one is missing.
        """
        ordered = sorted(set(wanted), key=lambda pair: pair[1])
        left = {offset for _, offset in ordered}
        for topic_id, offset in ordered:
            if offset not in left:
                continue
            scan = Scan(frozenset((topic_id,)), None, None, None, False, offset, offset, 1)
            for row in self._next_window(scan).rows:
                columns, offsets = decoded(row)
                for found, payload in zip(offsets, columns.payloads, strict=True):
                    if found in left:
                        left.remove(found)
                        yield found, payload
            if offset in left:
                raise StoreCorrupt(f"The event at offset {offset} is missing. Restore the file from a backup.")

    def event_ids_at(self, wanted: Iterable[tuple[int, int]]) -> dict[int, str]:
        """Offset -> event_id of these (topic_id, offset) pairs, in their order as far as the bound on blocks leads.

        Neighbours come with one another's block, so resends of one batch cost one block. Raises StoreCorrupt.
        """
        pairs = list(wanted)
        offsets_wanted = {offset for _, offset in pairs}
        found: dict[int, str] = {}
        cost = 0
        for topic_id, offset in pairs:
            if offset in found:
                continue
            if cost >= _EVENT_IDS_COST_MAX:
                break
            scan = Scan(frozenset((topic_id,)), None, None, None, False, offset, offset, 1)
            for row in self._next_window(scan).rows:
                columns, offsets = decoded(row)
                ids = zip(offsets, columns.event_ids, strict=True)
                found.update((each, event_id) for each, event_id in ids if each in offsets_wanted)
                cost += _BLOCK_COST + sum(map(len, columns.payloads))
            if offset not in found:
                raise StoreCorrupt(f"The event at offset {offset} is missing. Restore the file from a backup.")
        return found

    # Choosing what to read next

    def _next_window(self, scan: Scan) -> Window:
        while True:
            places = self._layout.now
            live_through = places.live_through
            with self._log.snapshot() as connection:
                in_runs = scan.high <= live_through if scan.descending else scan.low <= live_through
                if in_runs:
                    window = self._window_of_runs(connection, scan, places)
                else:
                    tail_window = self._window_of_tail(connection, scan, places)
                    if tail_window is None and places is self._layout.now:
                        raise StoreCorrupt("Commits are missing from the log. Restore the file from a backup.")
                    if tail_window is None:
                        continue
                    window = tail_window
            assert window.high >= scan.low, "every window gets a read further up"
            assert window.low <= scan.high, "every window gets a read further down"
            self.blocks_read += len(window.rows)
            return window

    def _window_of_runs(self, connection: apsw.Connection, scan: Scan, places: Places) -> Window:
        low, high = scan.low, min(scan.high, places.live_through)
        if scan.topic_ids:
            entries, low, high = _entries_of_topics(connection, scan, places, low, high)
        else:
            entries, low, high = _entries_of_run(connection, scan, places.runs, low, high)
            if not scan.has_row_filter:  # every offset is a candidate, so the window need be no wider than the limit
                low, high = (
                    (max(low, high - scan.want + 1), high) if scan.descending else (low, min(high, low + scan.want - 1))
                )
        entries = [entry for entry in entries if entry.first_offset <= high and entry.last_offset >= low]
        entries.sort(key=lambda entry: -entry.last_offset if scan.descending else entry.first_offset)
        candidates = 0
        for place, entry in enumerate(entries):
            candidates += entry.events
            is_enough = candidates >= scan.want or place + 1 >= _BLOCKS_MAX
            if is_enough and place + 1 < len(entries):
                if scan.descending:
                    low = max(low, min(each.first_offset for each in entries[: place + 1]))
                else:
                    high = min(high, max(each.last_offset for each in entries[: place + 1]))
                break
        wanted = sorted(
            {entry.block_no for entry in entries if entry.first_offset <= high and entry.last_offset >= low}
        )
        return Window([_load_block(connection, block_no) for block_no in wanted], low, high)

    def _window_of_tail(self, connection: apsw.Connection, scan: Scan, places: Places) -> Window | None:
        """None when a compaction took commits away between the capture and the snapshot: look again."""
        commits = places.commits
        low, high = max(scan.low, places.live_through + 1), scan.high
        span = commits[first_reaching(commits, low) : len(commits)]
        chosen: list[TailCommit] = []
        candidates = size = 0
        for commit in reversed(span) if scan.descending else span:
            if commit.first_offset > high or commit.last_offset < low or not commit.events:
                continue
            here = (
                sum(commit.events_by_topic.get(topic_id, 0) for topic_id in scan.topic_ids)
                if scan.topic_ids
                else commit.events
            )
            if not here:
                continue
            if chosen and (candidates >= min(scan.want, WINDOW_EVENTS) or size >= _TAIL_BYTES_MAX):
                edge = chosen[-1]
                low, high = (edge.first_offset, high) if scan.descending else (low, edge.last_offset)
                break
            chosen.append(commit)
            candidates += here
            size += commit.raw_bytes
        rows = [row for first, last in _stretches(chosen) for row in commit_rows(connection, first, last)]
        if len(rows) != len(chosen):
            return None
        known = {commit.commit_no: commit for commit in chosen}
        return Window([_load_commit(row, known[row.commit_no]) for row in rows], max(low, scan.low), high)

    def _narrow_by_time(self, scan: Scan) -> None:
        """Skips runs and commits before `since` and after `until` by their time range: store time follows offsets."""
        places = self._layout.now
        if scan.since_us is not None:
            earlier = [commit.last_offset for commit in places.commits if commit.stamp_us < scan.since_us]
            last_earlier = earlier[-1] if earlier else last_offset_before(places.runs, scan.since_us)
            scan.low = max(scan.low, last_earlier + 1)
        if scan.until_us is not None:
            first_later = first_offset_from(places.runs, scan.until_us)
            if first_later is None:
                later = (commit.first_offset for commit in places.commits if commit.stamp_us >= scan.until_us)
                first_later = next(later, None)
            if first_later is not None:
                scan.high = min(scan.high, first_later - 1)


def _entries_of_run(
    connection: apsw.Connection, scan: Scan, runs: Sequence[Run], low: int, high: int
) -> tuple[list[_Entry], int, int]:
    """The blocks of the run that reading has come to, and the part of low..high that they cover."""
    run = run_holding(runs, high if scan.descending else low)
    rows = integers_of(
        "A block's head",
        connection,
        "SELECT block_no, first_offset, last_offset, events FROM blocks WHERE block_no BETWEEN ? AND ?",
        run.first_block,
        run.last_block,
    )
    return [_Entry(*row) for row in rows], max(low, run.first_offset), min(high, run.last_offset)


_TOPIC_ENTRIES: Final = """
    SELECT block_no, first_offset, last_offset, events, events_before, checksum FROM topic_blocks
    WHERE topic_id = ?1 AND first_offset >= coalesce(
        (SELECT first_offset FROM topic_blocks WHERE topic_id = ?1 AND first_offset <= ?2
         ORDER BY first_offset DESC LIMIT 1), 0)
    AND first_offset <= coalesce(
        (SELECT first_offset FROM topic_blocks WHERE topic_id = ?1 AND first_offset > ?3
         ORDER BY first_offset LIMIT 1), ?3)
    ORDER BY first_offset {direction} LIMIT ?4"""
"""Those that may hold offsets ?2..?3, and the one before and after, so that it is seen that none is missing."""
_TOPIC_ENTRIES_UP: Final = _TOPIC_ENTRIES.format(direction="ASC")
_TOPIC_ENTRIES_DOWN: Final = _TOPIC_ENTRIES.format(direction="DESC")


def _entries_of_topics(
    connection: apsw.Connection, scan: Scan, places: Places, low: int, high: int
) -> tuple[list[_Entry], int, int]:
    """The next blocks of each topic, and the part of low..high that they cover for all of them. Raises StoreCorrupt."""
    entries: list[_Entry] = []
    sql = _TOPIC_ENTRIES_DOWN if scan.descending else _TOPIC_ENTRIES_UP
    covered_low, covered_high = low, high
    for topic_id in scan.topic_ids:
        rows = rows_of(connection, sql, topic_id, low, high, _ENTRIES_PER_TOPIC)
        for block_no, first_offset, last_offset, events, events_before, checksum in rows:
            check_row("a topic's block", checksum, topic_id, first_offset, last_offset, events, events_before, block_no)
            entries.append(_Entry(block_no, first_offset, last_offset, events))
        is_cut = len(rows) == _ENTRIES_PER_TOPIC
        _check_none_is_missing(
            [row for row in (reversed(rows) if scan.descending else rows) if row[1] <= places.live_through],
            places.events_in_runs.get(topic_id, 0),
            low,
            high,
            from_first=not (is_cut and scan.descending),
            to_last=not (is_cut and not scan.descending),
        )
        if is_cut:
            if scan.descending:
                covered_low = max(covered_low, rows[-1][1])
            else:
                covered_high = min(covered_high, rows[-1][2])
    return entries, covered_low, covered_high


def _check_none_is_missing(
    rows: Sequence[tuple[int, ...]], events_in_runs: int, low: int, high: int, *, from_first: bool, to_last: bool
) -> None:
    """`rows`: a topic's, by rising offset, as _TOPIC_ENTRIES gives them; each counts the events before it.

    Where the limit has cut them, they begin after their first (not `from_first`) or end before their last (not
    `to_last`). Raises StoreCorrupt.
    """
    counted = None
    for _, first_offset, _, events, events_before, _ in rows:
        if counted is None and from_first and first_offset > low:
            counted = 0  # none lies before it
        if counted is not None and counted != events_before:
            raise _lead_missing(first_offset)
        counted = events_before + events
    is_last = not rows or rows[-1][1] <= high
    if to_last and is_last and (counted or 0) != events_in_runs:
        raise _lead_missing(high)


def _lead_missing(offset: int) -> StoreCorrupt:
    return StoreCorrupt(f"The look-up of a topic lacks blocks before offset {offset}. Restore the file from a backup.")


def _load_block(connection: apsw.Connection, block_no: int) -> Loaded:
    sql = "SELECT run_no, first_offset, last_offset, events, topics, block, checksum FROM blocks WHERE block_no = ?"
    rows = rows_of(connection, sql, block_no)
    if not rows:
        raise StoreCorrupt(f"Block {block_no} is missing. Restore the file from a backup.")
    *columns, checksum = rows[0]
    check_row(f"block {block_no}", checksum, block_no, *columns)
    _, first_offset, _, events, topics, block = columns
    fields = decode_integers(topics)
    return Loaded(fields[0::2], fields[1::2], block, events, first_offset, None)


def _load_commit(row: CommitRow, commit: TailCommit) -> Loaded:
    assert row.block is not None, "only commits with events are chosen"
    return Loaded(commit.topic_ids, None, row.block, row.events, row.first_offset, row.stamp_us)


def _stretches(commits: Sequence[TailCommit]) -> list[tuple[int, int]]:
    """The commits' numbers as ranges, ascending."""
    stretches: list[tuple[int, int]] = []
    for commit_no in sorted(commit.commit_no for commit in commits):
        if stretches and stretches[-1][1] == commit_no - 1:
            stretches[-1] = (stretches[-1][0], commit_no)
        else:
            stretches.append((commit_no, commit_no))
    return stretches
