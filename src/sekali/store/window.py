"""A window of the log: blocks read together, and the events chosen from them once they are decoded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from sekali.errors import StoreCorrupt
from sekali.event import StoredEvents
from sekali.store.block import Columns, decode_block, pick
from sekali.store.topics import TopicBook

WINDOW_EVENTS: Final = 8_192
"""A window holds about this many candidate events, or as many as the limit asks for."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row with events, read but not decoded.

    A block of a run lies sorted by topic, `topic_events` events of each. A commit of the tail has None there, its
    stamp for all, and offsets that run on from the first.
    """

    topic_ids: Sequence[int]
    topic_events: Sequence[int] | None
    block: bytes
    events: int
    first_offset: int
    stamp_us: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """Loaded rows that hold every candidate with low <= offset <= high."""

    rows: list[Loaded]
    low: int
    high: int


@dataclass(slots=True)
class Scan:
    """A read under way: its query, resolved, and the offsets still to visit (both inclusive)."""

    topic_ids: frozenset[int]
    source: str | None
    since_us: int | None
    until_us: int | None
    descending: bool
    low: int
    high: int
    left: int | None

    @property
    def has_row_filter(self) -> bool:
        return self.source is not None or self.since_us is not None or self.until_us is not None

    @property
    def want(self) -> int:
        """How many candidates a window is to hold."""
        if self.left is None:
            return WINDOW_EVENTS if self.topic_ids else 1 << 62
        return max(self.left, WINDOW_EVENTS) if self.has_row_filter else self.left


def matching(window: Window, scan: Scan, topics: TopicBook) -> StoredEvents:
    """The window's events that match, in the order asked for, at most as many as the limit leaves."""
    parts: list[StoredEvents] = []
    held = 0
    for row in window.rows:
        columns, offsets = decoded(row)
        stamps: Sequence[int] = columns.received_at_us or [row.stamp_us or 0] * row.events
        positions = _positions(row, columns, offsets, window, scan)
        held += len(positions)
        if scan.source is not None:
            positions = [i for i in positions if columns.sources[i] == scan.source]
        if scan.since_us is not None:
            positions = [i for i in positions if stamps[i] >= scan.since_us]
        if scan.until_us is not None:
            positions = [i for i in positions if stamps[i] < scan.until_us]
        if positions:
            names = [topics.name(topic_id) for topic_id in row.topic_ids]
            parts.append(_stored(columns, offsets, stamps, names, positions))
    if not scan.topic_ids and held != window.high - window.low + 1:  # offsets have no gap
        raise StoreCorrupt(f"Events are missing between offsets {window.low} and {window.high}. Restore a backup.")
    return _in_order(parts, scan.descending, scan.left)


def decoded(row: Loaded) -> tuple[Columns, Sequence[int]]:
    """The row's columns, and its offsets. Raises StoreCorrupt."""
    columns = decode_block(row.block, row.events)
    if columns.offsets is None:
        return columns, range(row.first_offset, row.first_offset + row.events)
    return columns, columns.offsets


def _positions(row: Loaded, columns: Columns, offsets: Sequence[int], window: Window, scan: Scan) -> Sequence[int]:
    """The places in the row of the events of the wanted topics with offsets in the window."""
    wanted = scan.topic_ids
    if row.topic_events is None:
        places: Sequence[int] = range(
            max(0, window.low - row.first_offset), min(row.events, window.high + 1 - row.first_offset)
        )
        if wanted and not wanted.issuperset(row.topic_ids):
            local = {i for i, topic_id in enumerate(row.topic_ids) if topic_id in wanted}
            places = [i for i in places if columns.topics[i] in local]
        return places
    chosen: list[int] = []
    for topic_id, events, end in zip(row.topic_ids, row.topic_events, accumulate(row.topic_events), strict=True):
        if not wanted or topic_id in wanted:
            start = end - events
            chosen += range(
                bisect_left(offsets, window.low, start, end), bisect_right(offsets, window.high, start, end)
            )
    return chosen


def _stored(
    columns: Columns, offsets: Sequence[int], stamps: Sequence[int], names: Sequence[str], positions: Sequence[int]
) -> StoredEvents:
    """The events of a block at `positions`, with their names for topic indexes."""
    every = len(positions) == len(columns)
    chosen = columns if every else columns.at(positions)
    plain_names = not any('"' in name or "\\" in name for name in names)
    return StoredEvents(
        topics=pick(names, chosen.topics),
        event_ids=chosen.event_ids,
        timestamps=chosen.timestamps,
        sources=chosen.sources,
        payloads=chosen.payloads,
        extras=chosen.extras,
        offsets=offsets if every else pick(offsets, positions),
        received_at_us=stamps if every else pick(stamps, positions),
        text_is_plain=columns.text_is_plain and plain_names,
    )


def _in_order(parts: list[StoredEvents], descending: bool, limit: int | None) -> StoredEvents:
    """All parts as one run by offset, at most `limit` events."""
    events = parts[0] if len(parts) == 1 else _joined(parts)
    count = len(events)
    offsets = events.offsets
    order: Sequence[int] = range(count)
    if isinstance(offsets, range):
        order = range(count - 1, -1, -1) if descending else order
    else:
        order = sorted(order, key=offsets.__getitem__, reverse=descending)
    if limit is not None and count > limit:
        order = order[:limit]
    return events if order == range(count) else _picked(events, order)


def _joined(parts: list[StoredEvents]) -> StoredEvents:
    has_extras = any(part.extras is not None for part in parts)
    extras: list[bytes] | None = None
    if has_extras:
        extras = [extra for part in parts for extra in (part.extras or [b""] * len(part))]
    return StoredEvents(
        topics=[item for part in parts for item in part.topics],
        event_ids=[item for part in parts for item in part.event_ids],
        timestamps=[item for part in parts for item in part.timestamps],
        sources=[item for part in parts for item in part.sources],
        payloads=[item for part in parts for item in part.payloads],
        extras=extras,
        offsets=[item for part in parts for item in part.offsets],
        received_at_us=[item for part in parts for item in part.received_at_us],
        text_is_plain=all(part.text_is_plain for part in parts),
    )


def _picked(events: StoredEvents, positions: Sequence[int]) -> StoredEvents:
    return StoredEvents(
        topics=pick(events.topics, positions),
        event_ids=pick(events.event_ids, positions),
        timestamps=pick(events.timestamps, positions),
        sources=pick(events.sources, positions),
        payloads=pick(events.payloads, positions),
        extras=None if events.extras is None else pick(events.extras, positions),
        offsets=pick(events.offsets, positions),
        received_at_us=pick(events.received_at_us, positions),
        text_is_plain=events.text_is_plain,
    )
