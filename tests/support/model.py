"""The store as a plain dict and a list: what every answer of the real one is compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sekali.event import EventBatch, LedgerEntry, ReadQuery, StoreTotals, TopicFigures
from tests.support.events import CONFLICT, DUPLICATE, STORED, Row


def json_value(payload: bytes) -> Any:
    """A payload as a comparable value: numbers by their text, objects without order, everything else as JSON."""
    return _frozen(json.loads(payload, parse_int=_number, parse_float=_number))


def _number(text: str) -> tuple[str, str]:
    return ("number", text)


def _frozen(value: Any) -> Any:
    # A list becomes a tuple with a tag, so that neither [] and {} nor a number and a list can be taken for one another.
    if isinstance(value, dict):
        return ("object", frozenset((name, _frozen(member)) for name, member in value.items()))
    if isinstance(value, list):
        return ("array", tuple(_frozen(member) for member in value))
    if isinstance(value, bool):
        return ("bool", value)
    return value


@dataclass
class StoreModel:
    """Everything the contract says about one store, the obvious way."""

    log: list[Row] = field(default_factory=list)
    by_key: dict[tuple[str, str], Row] = field(default_factory=dict)
    figures: dict[str, TopicFigures] = field(default_factory=dict)
    ledger: list[LedgerEntry] = field(default_factory=list)
    duplicates: int = 0
    conflicts: int = 0
    store_time_us: int = 0

    def append(self, batches: Sequence[EventBatch], stamp_us: int) -> list[list[tuple[int, int]]]:
        """(status, offset) for each event of each batch."""
        self.store_time_us = max(self.store_time_us, stamp_us)
        return [[self._append_one(batch, i) for i in range(len(batch))] for batch in batches]

    def _append_one(self, batch: EventBatch, i: int) -> tuple[int, int]:
        topic, event_id, payload = batch.topics[i], batch.event_ids[i], bytes(batch.payloads[i])
        figures = self.figures.setdefault(topic, TopicFigures(topic))
        known = self.by_key.get((topic, event_id))
        if known is not None:
            self.duplicates += 1
            figures.duplicates += 1
            is_conflict = json_value(known.payload) != json_value(payload)
            kept = payload if is_conflict else None
            entry = LedgerEntry(known.offset, topic, batch.sources[i], self.store_time_us, is_conflict, kept)
            self.ledger.append(entry)
            if not is_conflict:
                return int(DUPLICATE), known.offset
            self.conflicts += 1
            figures.conflicts += 1
            return int(CONFLICT), known.offset
        extra = b"" if batch.extras is None else bytes(batch.extras[i])
        offset = len(self.log) + 1
        row = Row(offset, topic, event_id, batch.timestamps[i], batch.sources[i], payload, extra, self.store_time_us)
        self.log.append(row)
        self.by_key[row.key] = row
        figures.events += 1
        figures.last_offset = offset
        figures.last_at_us = self.store_time_us
        if figures.events == 1:
            figures.first_offset = offset
            figures.first_at_us = self.store_time_us
        return int(STORED), offset

    def read(self, query: ReadQuery) -> list[Row]:
        found = [row for row in self.log if _matches(row, query)]
        if query.descending:
            found.reverse()
        return found if query.limit is None else found[: query.limit]

    def topic_figures(self, after: str = "", limit: int = 1000) -> list[TopicFigures]:
        names = sorted((name for name in self.figures), key=lambda name: name.encode())
        return [self.figures[name] for name in names if name.encode() > after.encode()][:limit]


def _matches(row: Row, query: ReadQuery) -> bool:
    return (
        (not query.topics or row.topic in query.topics)
        and (query.source is None or row.source == query.source)
        and row.offset > query.after
        and (query.before is None or row.offset < query.before)
        and (query.since_us is None or row.received_at_us >= query.since_us)
        and (query.until_us is None or row.received_at_us < query.until_us)
    )


def check_totals(totals: StoreTotals, model: StoreModel) -> None:
    """I3: the counters add up, and are those of the model."""
    assert totals.received == totals.unique + totals.duplicates
    assert totals.unique == len(model.log)
    assert totals.duplicates == model.duplicates
    assert totals.conflicts == model.conflicts
    assert totals.topics == len(model.figures)
    assert totals.last_offset == len(model.log)


def check_figures(found: Iterable[TopicFigures], model: StoreModel) -> None:
    """The per-topic figures are those of the model, and sum to its totals."""
    figures = list(found)
    assert figures == model.topic_figures(limit=1_000_000)
    assert sum(figure.events for figure in figures) == len(model.log)
    assert sum(figure.duplicates for figure in figures) == model.duplicates
    assert sum(figure.conflicts for figure in figures) == model.conflicts
