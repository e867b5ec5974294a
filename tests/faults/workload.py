"""Work for a store in this process, and the record of it: what was attempted and answered by any moment.

The moments are the steps of one counter, so a power cut in the middle of anything knows which answers were given by
then. After a recovery `check_recovered` reads everything back and holds the store to its word (`check_history`), then
sends all of it again: nothing may be stored twice, whatever the seen index went through.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sekali.errors import SekaliError
from sekali.event import EventBatch, ReadQuery
from sekali.settings import Settings
from sekali.store.compaction import RunSizes
from sekali.store.store import Store
from sekali.wire.native import encode_events, encode_ledger
from tests.support.events import DUPLICATE, STAMP_US, STORED, Sent, batch_of, random_events, receipts, rows
from tests.support.history import Attempt, HistoryBroken, Stored, check_history
from tests.support.ledger import whole_ledger
from tests.support.stores import store_settings, wait_index_ready

SIZES: Final = RunSizes(run_events=60, run_commits_max=6, block_events=12)
"""A compaction every few commits."""
_WORDS: Final = ("stored", "duplicate", "conflict")


class Record:
    """Every request of a workload. `moment` grows with each note; any thread may read it."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)
        self.moment = 0
        self._attempts: list[Attempt] = []

    def call(self, batch: EventBatch) -> Attempt:
        keys = zip(batch.topics, batch.event_ids, strict=True)
        events = [(key, _canonical(payload)) for key, payload in zip(keys, batch.payloads, strict=True)]
        attempt = Attempt(f"#{len(self._attempts)}", self._tick(), events)
        self._attempts.append(attempt)
        return attempt

    def acknowledge(self, attempt: Attempt, told: Sequence[tuple[int, int]]) -> None:
        conflicts = [i for i, (status, _) in enumerate(told) if _WORDS[status] == "conflict"]
        attempt.status = 200
        attempt.body = {
            "accepted": len(told),
            "conflicts": conflicts,
            "receipts": [{"status": _WORDS[status], "offset": offset} for status, offset in told],
        }
        attempt.answered_at = self._tick()

    def refuse(self, attempt: Attempt, error: SekaliError) -> None:
        attempt.status, attempt.body = error.status, {"code": error.code}
        attempt.answered_at = self._tick()

    def at(self, moment: int) -> list[Attempt]:
        """What was attempted by then, and answered by then."""
        begun = [attempt for attempt in self._attempts if attempt.sent_at <= moment]
        return [
            attempt
            if attempt.answered_at is not None and attempt.answered_at <= moment
            else Attempt(attempt.name, attempt.sent_at, attempt.events)
            for attempt in begun
        ]

    def _tick(self) -> int:
        self.moment = next(self._ticks)
        return self.moment


def _canonical(payload: bytes) -> str:
    return json.dumps(json.loads(payload), sort_keys=True)


class Workload:
    """One store after the other on one path. Every step is drawn from `draw`, so a seed gives the same requests."""

    def __init__(self, path: Path, draw: random.Random, record: Record) -> None:
        self.path = path
        self.settings: Settings = store_settings(path)
        self._draw = draw
        self._record = record
        self._stamp_us = STAMP_US
        self.store: Store | None = None

    def open(self) -> Store:
        self.store = wait_index_ready(Store.open(self.settings, SIZES))
        return self.store

    def close(self) -> None:
        store, self.store = self.store, None
        if store is not None:
            store.close()

    def publish(self) -> None:
        """A group of a few requests. Raises what the store does; what it says of the requests is in the record."""
        assert self.store is not None
        draw = self._draw
        batches = [
            batch_of(random_events(draw, draw.choice([1, 1, 3, 8, 30]))) for _ in range(draw.choice([1, 1, 2, 4]))
        ]
        attempts = [self._record.call(batch) for batch in batches]
        self._stamp_us += draw.randrange(-1_000_000, 2_000_000)
        try:
            outcomes = self.store.append(batches, self._stamp_us)
        except SekaliError as error:
            for attempt in attempts:
                self._record.refuse(attempt, error)
            raise
        for attempt, outcome in zip(attempts, outcomes, strict=True):
            self._record.acknowledge(attempt, receipts(outcome))

    def step(self) -> None:
        """One of the things that happen to a store. Raises what the store does."""
        steps = (self.publish, self.compact, self.tidy, self.checkpoint, self.reopen)
        self._draw.choices(steps, (20, 2, 1, 2, 1))[0]()

    def compact(self) -> None:
        assert self.store is not None
        self.store.compact()

    def tidy(self) -> None:
        assert self.store is not None
        self.store._maintenance.tidy()

    def checkpoint(self) -> None:
        assert self.store is not None
        with self.store._appender.turn:
            self.store._log.checkpoint(in_turn=True)

    def reopen(self) -> None:
        self.close()
        self.open()


def check_recovered(path: Path, attempts: Sequence[Attempt]) -> dict[str, int]:
    """Opens the store at `path`, checks it against what was attempted, and sends everything again.

    Raises HistoryBroken at the first broken promise, also when the store cannot be opened.
    """
    try:
        store = wait_index_ready(Store.open(store_settings(path), SIZES))
    except SekaliError as error:
        raise HistoryBroken(f"the store cannot be opened any more: {error.detail}") from error
    try:
        counts = check_history(attempts, stored_in(store))
        _send_again(store, attempts)
    except HistoryBroken:
        raise
    except Exception as error:
        raise HistoryBroken(f"the store met the impossible: {error!r}") from error
    finally:
        store.close()
    return counts


def _send_again(store: Store, attempts: Sequence[Attempt]) -> None:
    """Every stored event is told to be a duplicate of itself, and every other one that was attempted is taken: the seen
    index knows each stored key, and no other."""
    stored = rows(store.read(ReadQuery()))
    known = {row.key for row in stored}
    lost = {key: payload for attempt in attempts for key, payload in attempt.events if key not in known}
    again = [Sent(row.topic, row.event_id, row.payload) for row in stored]
    new = [Sent(*key, payload.encode()) for key, payload in lost.items()]
    if not again + new:
        return
    told = receipts(store.append([batch_of(again + new)], STAMP_US)[0])
    expected = [(int(DUPLICATE), row.offset) for row in stored]
    expected += [(int(STORED), offset) for offset in range(len(stored) + 1, len(stored) + len(new) + 1)]
    for sent, found, true in zip(again + new, told, expected, strict=True):
        if found != true:
            raise HistoryBroken(f"{sent.key}, sent again, is {_WORDS[found[0]]} at {found[1]}; in truth {true}")


def stored_in(store: Store) -> Stored:
    """All that the store gives out."""
    events = [json.loads(event) for run in store.read(ReadQuery()) for event in encode_events(run)]
    totals = store.totals()
    stats = {
        "received": totals.received,
        "unique_processed": totals.unique,
        "duplicate_dropped": totals.duplicates,
        "conflicts": totals.conflicts,
    }
    topics = [
        {"events": each.events, "duplicates": each.duplicates, "conflicts": each.conflicts}
        for each in store.topic_figures(limit=1_000)
    ]
    ledger = [json.loads(entry) for entry in encode_ledger(whole_ledger(store))]
    return Stored(events, stats, topics, ledger)
