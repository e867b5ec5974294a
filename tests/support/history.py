"""What clients did, as they wrote it down themselves, and the one check that every fault test ends with.

A history is a file of JSON lines, each on disk before its writer goes on: a `call` before the request is sent, an
`answer` after it was answered. Three outcomes: *acknowledged* (200), *refused* (an answer that promises that nothing
was stored) and *unknown* (no answer, or one that does not say).

After recovery `check_history` reads everything back by offset and holds the store to its word:
acknowledged within stored within attempted; (topic, event_id) unique; the first acknowledged payload is the stored one;
offsets without a gap; a request is stored whole or not at all; the counters add up; the ledger has each duplicate.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, str]

REFUSED_STATUSES = frozenset({400, 404, 405, 408, 411, 413, 415, 422, 429, 507})
REFUSED_CODES = frozenset({"overloaded", "draining", "index_rebuilding", "disk_full"})


class HistoryBroken(AssertionError):
    """The store broke a promise. The message says which, with the keys and calls concerned."""


class History:
    """One client's own record. Not shared between threads."""

    def __init__(self, path: Path, client: str) -> None:
        self._file = path.open("ab")
        self._client = client
        self._calls = 0

    def call(self, events: Sequence[dict[str, Any]]) -> str:
        """Notes that these events are about to be sent, and returns the call's name."""
        name = f"{self._client}#{self._calls}"
        self._calls += 1
        sent = [[event["topic"], event["event_id"], json.dumps(event["payload"], sort_keys=True)] for event in events]
        self._note({"call": name, "at": time.monotonic_ns(), "events": sent})
        return name

    def answer(self, name: str, status: int, body: Any) -> None:
        """Notes the answer; status 0 when there was none, -1 when the request was never sent."""
        self._note({"answer": name, "at": time.monotonic_ns(), "status": status, "body": body})

    def _note(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@dataclass
class Attempt:
    """One request: what was sent, when, and what came back."""

    name: str
    sent_at: int
    events: list[tuple[Key, str]]
    answered_at: int | None = None
    status: int = 0
    body: Any = None

    @property
    def outcome(self) -> str:
        if self.status == 200:
            return "acknowledged"
        code = self.body.get("code") if isinstance(self.body, dict) else None
        if self.status == -1 or self.status in REFUSED_STATUSES or code in REFUSED_CODES:
            return "refused"
        return "unknown"

    @property
    def receipts(self) -> list[dict[str, Any]] | None:
        return self.body.get("receipts") if isinstance(self.body, dict) else None


def read_histories(paths: Iterable[Path]) -> list[Attempt]:
    """Every attempt of these files, by time of sending. A last line that was torn is left out."""
    attempts: dict[str, Attempt] = {}
    for path in sorted(paths):
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            note = json.loads(line)
            if "call" in note:
                events = [((topic, event_id), payload) for topic, event_id, payload in note["events"]]
                attempts[note["call"]] = Attempt(note["call"], note["at"], events)
            else:
                attempt = attempts[note["answer"]]
                attempt.answered_at, attempt.status, attempt.body = note["at"], note["status"], note["body"]
    return sorted(attempts.values(), key=lambda attempt: attempt.sent_at)


@dataclass
class Stored:
    """What a store gives back after recovery, read by offset, and its own figures."""

    events: list[dict[str, Any]]
    stats: dict[str, Any]
    topics: list[dict[str, Any]] | None = None
    ledger: list[dict[str, Any]] | None = None


@dataclass
class _Key:
    """All that is known of one key: who attempted it, and what they were told."""

    attempts: list[tuple[Attempt, int, str]] = field(default_factory=list)


def check_history(attempts: Sequence[Attempt], stored: Stored) -> dict[str, int]:
    """Raises HistoryBroken; returns counts, so that a test can tell that the run was not empty."""
    by_key: dict[Key, _Key] = defaultdict(_Key)
    for attempt in attempts:
        for i, (key, payload) in enumerate(attempt.events):
            by_key[key].attempts.append((attempt, i, payload))
    found = _check_log(stored.events)
    for key, (offset, payload) in found.items():
        _check_stored(key, offset, payload, by_key[key].attempts)
    for attempt in attempts:
        if attempt.outcome == "acknowledged":
            _check_acknowledged(attempt, found)
    _check_whole_requests(attempts, by_key, found)
    _check_counters(attempts, found, stored)
    if stored.ledger is not None:
        _check_ledger(stored.ledger, stored.events, stored.stats)
    counts = {"stored": len(found), "attempts": len(attempts), "acknowledged": 0, "refused": 0, "unknown": 0}
    for attempt in attempts:
        counts[attempt.outcome] += 1
    return counts


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise HistoryBroken(message)


def _check_log(events: Sequence[dict[str, Any]]) -> dict[Key, tuple[int, str]]:
    offsets = [event["offset"] for event in events]
    _require(offsets == list(range(1, len(offsets) + 1)), f"the offsets have a gap or a repeat: {_around_gap(offsets)}")
    times = [event["received_at"] for event in events]
    _require(times == sorted(times), "received_at steps back along the log")
    found: dict[Key, tuple[int, str]] = {}
    for event in events:
        key = (event["topic"], event["event_id"])
        if key in found:
            raise HistoryBroken(f"{key} is stored twice: at offsets {found[key][0]} and {event['offset']}")
        found[key] = (event["offset"], json.dumps(event["payload"], sort_keys=True))
    return found


def _around_gap(offsets: Sequence[int]) -> str:
    for place, offset in enumerate(offsets):
        if offset != place + 1:
            return f"{list(offsets[max(0, place - 2) : place + 3])} from place {max(0, place - 2)}"
    return "none"


def _check_stored(key: Key, offset: int, payload: str, attempts: Sequence[tuple[Attempt, int, str]]) -> None:
    possible = [(attempt, i) for attempt, i, sent in attempts if sent == payload and attempt.outcome != "refused"]
    _require(
        bool(possible), f"{key} is stored at {offset} with a payload that nobody sent, or only in refused requests"
    )
    # Whoever was answered before the first sender of the stored payload even called must have been first.
    first_call = min(attempt.sent_at for attempt, _ in possible)
    for attempt, _, sent in attempts:
        earlier = attempt.outcome == "acknowledged" and (attempt.answered_at or first_call) < first_call
        _require(
            sent == payload or not earlier,
            f"{key}: {attempt.name} was acknowledged before the stored payload was first sent",
        )


def _check_acknowledged(attempt: Attempt, found: dict[Key, tuple[int, str]]) -> None:
    missing = [key for key, _ in attempt.events if key not in found]
    _require(not missing, f"{attempt.name} was acknowledged, and {len(missing)} of its events are lost: {missing[:3]}")
    accepted = attempt.body["accepted"]
    _require(accepted == len(attempt.events), f"{attempt.name}: accepted {accepted} of {len(attempt.events)}")
    differing = [i for i, (key, payload) in enumerate(attempt.events) if found[key][1] != payload]
    _require(
        attempt.body.get("conflicts", []) == differing,
        f"{attempt.name}: told of conflicts at {attempt.body.get('conflicts', [])}, in truth at {differing}",
    )
    receipts = attempt.receipts
    if receipts is None:
        return
    _require(len(receipts) == len(attempt.events), f"{attempt.name}: {len(receipts)} receipts")
    told_stored: set[Key] = set()
    for i, (receipt, (key, payload)) in enumerate(zip(receipts, attempt.events, strict=True)):
        where = f"{attempt.name}[{i}] {key}: receipt {receipt}, stored at {found[key][0]}"
        _require(receipt["offset"] == found[key][0], where)
        _require((receipt["status"] == "conflict") == (found[key][1] != payload), where)
        if receipt["status"] == "stored":
            _require(key not in told_stored, where + ", told `stored` twice")
            told_stored.add(key)


def _check_whole_requests(
    attempts: Sequence[Attempt], by_key: dict[Key, _Key], found: dict[Key, tuple[int, str]]
) -> None:
    """A request's keys that nobody else ever sent are all there, or none is. `stored` is told once per key."""
    told: dict[Key, str] = {}
    for attempt in attempts:
        own = {key for key, _ in attempt.events if all(other is attempt for other, _, _ in by_key[key].attempts)}
        present = own & found.keys()
        _require(not present or present == own, f"{attempt.name} is stored in part: {len(present)} of {len(own)}")
        for receipt, (key, _) in zip(attempt.receipts or [], attempt.events, strict=False):
            if receipt["status"] == "stored":
                _require(key not in told, f"{key}: both {told.get(key)} and {attempt.name} were told `stored`")
                told[key] = attempt.name


def _check_counters(attempts: Sequence[Attempt], found: dict[Key, tuple[int, str]], stored: Stored) -> None:
    stats = stored.stats
    unique, duplicates, conflicts = stats["unique_processed"], stats["duplicate_dropped"], stats["conflicts"]
    _require(stats["received"] == unique + duplicates, f"I3: {stats['received']} is not {unique} + {duplicates}")
    _require(unique == len(found), f"unique_processed is {unique}; the log holds {len(found)}")
    acknowledged = sum(len(a.events) for a in attempts if a.outcome == "acknowledged")
    possible = acknowledged + sum(len(a.events) for a in attempts if a.outcome == "unknown")
    _require(
        acknowledged <= stats["received"] <= possible,
        f"received {stats['received']} is not within {acknowledged} acknowledged and {possible} possible",
    )
    told = sum(len(a.body.get("conflicts", [])) for a in attempts if a.outcome == "acknowledged")
    _require(told <= conflicts <= duplicates, f"conflicts {conflicts} is not within {told} told and {duplicates}")
    if stored.topics is not None:
        for name, total in (("events", unique), ("duplicates", duplicates), ("conflicts", conflicts)):
            added = sum(topic[name] for topic in stored.topics)
            _require(added == total, f"the topics' {name} add up to {added}, not {total}")


def _check_ledger(ledger: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], stats: dict[str, Any]) -> None:
    """One entry for each duplicate that is counted, none of them of an event that is not there."""
    refused, conflicts = len(ledger), sum(entry["status"] == "conflict" for entry in ledger)
    _require(refused == stats["duplicate_dropped"], f"{stats['duplicate_dropped']} duplicates, {refused} in the ledger")
    _require(conflicts == stats["conflicts"], f"{stats['conflicts']} conflicts, {conflicts} in the ledger")
    times = [entry["received_at"] for entry in ledger]
    _require(times == sorted(times), "received_at steps back along the ledger")
    for entry in ledger:
        event = events[entry["offset"] - 1] if 0 < entry["offset"] <= len(events) else None
        fits = event is not None and event["topic"] == entry["topic"] and event["received_at"] <= entry["received_at"]
        _require(fits, f"the ledger names offset {entry['offset']} of {entry['topic']}, which the log does not hold")
