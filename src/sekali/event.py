"""What an event is, in memory: the columns of a request, of a group's answers, of a stored run.

The hot path never builds an object per event: events travel as parallel columns of equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

TOPIC_BYTES_MAX: Final = 255
EVENT_ID_BYTES_MAX: Final = 255
SOURCE_BYTES_MAX: Final = 1024


class ReceiptStatus(IntEnum):
    """What became of one published event. The wire word is the name in lower case."""

    STORED = 0
    DUPLICATE = 1
    CONFLICT = 2
    """Same (topic, event_id), another payload: the first is kept, this one is counted as a duplicate."""
    REJECTED = 3
    """It broke a rule; only with `partial=true`."""


@dataclass(slots=True)
class Rejection:
    """An item of a `partial` request that broke a rule: its place in the request, and why."""

    index: int
    code: str
    detail: str


@dataclass(slots=True)
class EventBatch:
    """The events of one request that passed the rules: parallel columns.

    `payloads` are the exact bytes sent (a JSON object; any bytes-like object). `extras` is None when no event has
    unknown members; otherwise one fragment per event, `b'"name":value,"other":value'` as sent, or b"".
    No byte of a payload or extra is NUL, and no name holds a control character: the store relies on both.
    """

    topics: list[str]
    event_ids: list[str]
    timestamps: list[str]
    sources: list[str]
    payloads: Sequence[bytes]
    extras: list[bytes] | None
    body_bytes: int
    """Size of the request body the batch came from: what the intake accounts for it."""
    is_single: bool = False
    """The body was one object, not an array."""
    rejections: list[Rejection] = field(default_factory=list)
    """`partial` only, by index. The columns hold the other items, in order."""

    def __len__(self) -> int:
        return len(self.event_ids)


@dataclass(slots=True)
class BatchOutcome:
    """What became of the events of one EventBatch, in its order.

    `statuses` is None when every event was stored. `offsets` are those of the stored event with that key (its own, or
    the earlier one for a duplicate or conflict); 0 for a duplicate of an id that was seeded without an event.
    """

    offsets: Sequence[int]
    statuses: Sequence[int] | None = None

    @property
    def conflict_positions(self) -> list[int]:
        if self.statuses is None:
            return []
        return [i for i, status in enumerate(self.statuses) if status == ReceiptStatus.CONFLICT]


@dataclass(slots=True)
class StoredEvents:
    """A run of stored events in the order asked for: parallel columns, as EventBatch, with offset and store time.

    `received_at_us`: microseconds since 1970-01-01 UTC; never decreases with the offset.
    `text_is_plain`: no topic, event_id, timestamp or source holds a character that JSON must escape.
    """

    topics: Sequence[str]
    event_ids: Sequence[str]
    timestamps: Sequence[str]
    sources: Sequence[str]
    payloads: Sequence[bytes]
    extras: Sequence[bytes] | None
    offsets: Sequence[int]
    received_at_us: Sequence[int]
    text_is_plain: bool = False

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, begin: int, end: int) -> StoredEvents:
        """The events at the places begin..end, end exclusive."""
        if begin == 0 and end >= len(self):
            return self
        return StoredEvents(
            topics=self.topics[begin:end],
            event_ids=self.event_ids[begin:end],
            timestamps=self.timestamps[begin:end],
            sources=self.sources[begin:end],
            payloads=self.payloads[begin:end],
            extras=None if self.extras is None else self.extras[begin:end],
            offsets=self.offsets[begin:end],
            received_at_us=self.received_at_us[begin:end],
            text_is_plain=self.text_is_plain,
        )


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """Which stored events to read, and in which order.

    `topics` and `source` are exact, empty or None means no filter. `after` and `before` are offsets, both exclusive.
    `since_us` (inclusive) and `until_us` (exclusive) compare store time. `limit` None: up to the log's end as it is
    when reading begins.
    """

    topics: tuple[str, ...] = ()
    source: str | None = None
    after: int = 0
    before: int | None = None
    since_us: int | None = None
    until_us: int | None = None
    descending: bool = False
    limit: int | None = None


class LedgerPlace(NamedTuple):
    """Where an entry stands in the ledger: its commit, and its place among what that commit refused, from 0."""

    commit_no: int
    place: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One refused event: the offset of the stored one with its key, its topic and source, and when it came."""

    offset: int
    """0 for an id that was seeded without an event."""
    topic: str
    source: str
    """Who sent it again, which need not be who sent the stored one."""
    received_at_us: int
    is_conflict: bool
    refused_payload: bytes | None
    """Of a conflict; None when it was over a bound."""
    at: LedgerPlace = field(default=LedgerPlace(0, 0), compare=False)
    event_id: str | None = None
    """Of the stored event; None unless it was asked for."""


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """Which entries of the ledger to read, oldest first unless `descending`.

    `topics` and `source` are exact, empty or None means no filter. `since_us` (inclusive) and `until_us` (exclusive)
    compare store time. `start`: from that place on, in the order asked for. `limit`: at least 1.
    """

    topics: tuple[str, ...] = ()
    source: str | None = None
    is_conflict: bool | None = None
    since_us: int | None = None
    until_us: int | None = None
    descending: bool = False
    start: LedgerPlace | None = None
    limit: int = 1000
    with_event_ids: bool = False


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """Entries in the order asked for. `following`: where to read on; None at the end of the ledger.

    A page may hold fewer than asked for, or none, with more behind it: the work for one is bounded.
    """

    entries: list[LedgerEntry]
    following: LedgerPlace | None


@dataclass(frozen=True, slots=True)
class SeenAnswer:
    """Whether a key is stored, and at which offset (0 for an id seeded without an event)."""

    seen: bool
    offset: int = 0


@dataclass(slots=True)
class TopicFigures:
    """Per-topic totals. Times are store times in microseconds; offsets 0 while nothing is stored."""

    name: str
    events: int = 0
    duplicates: int = 0
    """Conflicts included."""
    conflicts: int = 0
    first_offset: int = 0
    last_offset: int = 0
    first_at_us: int = 0
    last_at_us: int = 0


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """Totals over the whole store. received = unique + duplicates, always."""

    unique: int
    duplicates: int
    """Conflicts included."""
    conflicts: int
    topics: int
    last_offset: int
    last_commit: int
    store_time_us: int

    @property
    def received(self) -> int:
        return self.unique + self.duplicates
