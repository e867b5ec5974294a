"""Builders for the columns that the store takes, and flat rows of what it gives back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sekali.event import BatchOutcome, EventBatch, ReceiptStatus, StoredEvents

STORED, DUPLICATE, CONFLICT = ReceiptStatus.STORED, ReceiptStatus.DUPLICATE, ReceiptStatus.CONFLICT
STAMP_US = 1_704_067_200_000_000
"""2024-01-01T00:00:00Z, the stamp of tests that do not care."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One event as a sender gives it."""

    topic: str
    event_id: str
    payload: bytes = b"{}"
    source: str = "test"
    timestamp: str = "2024-01-01T00:00:00Z"
    extra: bytes = b""

    @property
    def key(self) -> tuple[str, str]:
        return self.topic, self.event_id


@dataclass(frozen=True, slots=True)
class Row:
    """One event as the store gives it back."""

    offset: int
    topic: str
    event_id: str
    timestamp: str
    source: str
    payload: bytes
    extra: bytes
    received_at_us: int

    @property
    def key(self) -> tuple[str, str]:
        return self.topic, self.event_id


def batch_of(events: Iterable[Sent], *, is_single: bool = False) -> EventBatch:
    """The columns of these events, as one request would bring them."""
    sent = list(events)
    has_extras = any(event.extra for event in sent)
    return EventBatch(
        topics=[event.topic for event in sent],
        event_ids=[event.event_id for event in sent],
        timestamps=[event.timestamp for event in sent],
        sources=[event.source for event in sent],
        payloads=[event.payload for event in sent],
        extras=[event.extra for event in sent] if has_extras else None,
        body_bytes=sum(len(event.payload) + 120 for event in sent),
        is_single=is_single,
    )


def batch(*events: Sent) -> EventBatch:
    return batch_of(events)


def numbered(count: int, *, topic: str = "alpha", prefix: str = "e", payload: bytes | None = None) -> list[Sent]:
    """`count` distinct events of one topic; the payload holds the number unless it is given."""
    return [
        Sent(topic, f"{prefix}-{i}", payload if payload is not None else b'{"n":%d}' % i, source=f"s-{i % 3}")
        for i in range(count)
    ]


def receipts(outcome: BatchOutcome) -> list[tuple[int, int]]:
    """(status, offset) of every event of one batch."""
    statuses = outcome.statuses
    return [(int(STORED if statuses is None else statuses[i]), int(offset)) for i, offset in enumerate(outcome.offsets)]


def rows(runs: Iterable[StoredEvents]) -> list[Row]:
    """Every event of these runs; a run must not be empty and its columns must be of equal length."""
    return list(_rows(runs))


def _rows(runs: Iterable[StoredEvents]) -> Iterator[Row]:
    for run in runs:
        count = len(run)
        columns: list[Sequence[object]] = [run.topics, run.event_ids, run.timestamps, run.sources, run.payloads]
        columns.append(run.received_at_us)
        assert all(len(column) == count for column in columns), "columns of unequal length"
        assert run.extras is None or len(run.extras) == count
        for i in range(count):
            extra = b"" if run.extras is None else bytes(run.extras[i])
            yield Row(
                int(run.offsets[i]),
                run.topics[i],
                run.event_ids[i],
                run.timestamps[i],
                run.sources[i],
                bytes(run.payloads[i]),
                extra,
                int(run.received_at_us[i]),
            )
            if run.text_is_plain:
                text = run.topics[i] + run.event_ids[i] + run.timestamps[i] + run.sources[i]
                assert not any(c in '"\\' or ord(c) < 32 for c in text), "text_is_plain of text that needs escaping"


def random_events(random_source: random.Random, count: int, *, topics: int = 7, ids: int = 200) -> list[Sent]:
    """Events with repeats: some plain duplicates, some conflicts, some with extra members and odd names."""
    chosen = []
    for _ in range(count):
        number = random_source.randrange(ids)
        payload = b'{"n":%d}' % number if random_source.random() < 0.9 else b'{"other":%d}' % random_source.randrange(9)
        chosen.append(
            Sent(
                topic=("topic/é" if number % 5 == 0 else "t") + str(random_source.randrange(topics)),
                event_id=f'id "{number}"' if number % 11 == 0 else f"id-{number}",
                payload=payload,
                source=random_source.choice(["web", "shipper\\1", "phone"]),
                timestamp=random_source.choice(["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.123456789+07:00"]),
                extra=b'"trace":"%d"' % number if number % 7 == 0 else b"",
            )
        )
    return chosen
