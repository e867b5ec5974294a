"""Deciding a group: which of its events are new, which are duplicates of what, which of those are conflicts.

Pure given the answers of the seen index. Within a group each key is resolved once; later occurrences take that result.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from xxhash import xxh3_64_intdigest

from sekali.event import EventBatch, ReceiptStatus
from sekali.json_value import same_json_value
from sekali.store.seen import unpack_value

_TOPIC_HASHERS_MAX: Final = 8192
_ERASED: Final = 0
_FINGERPRINT_MASK: Final = 0xFFFFFFFF
_COLUMNS: Final = tuple(map(attrgetter, ("topics", "event_ids", "timestamps", "sources", "payloads")))


@dataclass(slots=True)
class GroupColumns:
    """The events of a group's batches, one after the other, with their digests and payload fingerprints."""

    topics: Sequence[str]
    event_ids: Sequence[str]
    timestamps: Sequence[str]
    sources: Sequence[str]
    payloads: Sequence[bytes]
    extras: Sequence[bytes] | None
    digests: Sequence[bytes] = ()
    fingerprints: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.event_ids)


@dataclass(slots=True)
class Duplicate:
    """An event that is stored already. Exactly one of `offset` (stored before) and `new_place` tells where.

    `new_place` is the place among the group's new events of the one it repeats.
    """

    place: int
    offset: int
    new_place: int | None
    is_conflict: bool = False


@dataclass(slots=True)
class Decision:
    """`new_places` None: every event is new. Otherwise the places of the new ones, ascending."""

    new_places: list[int] | None
    duplicates: list[Duplicate] = field(default_factory=list)


class _Starts(dict[str, Callable[[], blake2b]]):
    """For each topic what makes a hasher that has taken in topic and NUL: by copying one, which halves the time."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, topic: str) -> Callable[[], blake2b]:
        if len(self) >= _TOPIC_HASHERS_MAX:
            del self[next(iter(self))]
        start = self[topic] = blake2b(topic.encode() + b"\0", digest_size=16, key=self._key).copy
        return start


class Digester:
    """Digests of keys and fingerprints of payloads, under the store's secret key. Not thread-safe: one per thread.

    A key's digest is BLAKE2b-128 (RFC 7693) of topic, NUL, event_id: no name holds a NUL.
    """

    def __init__(self, key: bytes) -> None:
        self._start_of = _Starts(key)
        self._fingerprint_seed = int.from_bytes(blake2b(b"fingerprint", digest_size=8, key=key).digest())

    def digests(self, topics: Sequence[str], event_ids: Sequence[str]) -> list[bytes]:
        """16 bytes per event."""
        digests: list[bytes] = []
        append = digests.append
        start_of = self._start_of
        for topic, event_id in zip(topics, event_ids, strict=True):
            hasher = start_of[topic]()
            hasher.update(event_id.encode())
            append(hasher.digest())
        return digests

    def fingerprints(self, payloads: Sequence[bytes]) -> list[int]:
        """The lower half of each payload's XXH3-64, seeded in secret; never 0, which stands for an erased one.

        Equal fingerprints are taken for equal payloads; different ones are compared as JSON values. So one conflict in
        2^32 is told as a plain duplicate, which nobody can bring about without the seed; and no re-serialised retry is
        told as a conflict.
        """
        seed = self._fingerprint_seed
        return [xxh3_64_intdigest(payload, seed) & _FINGERPRINT_MASK or 1 for payload in payloads]


def columns_of(batches: Sequence[EventBatch]) -> GroupColumns:
    """The batches' columns, joined."""
    if len(batches) == 1:
        batch = batches[0]
        return GroupColumns(
            batch.topics, batch.event_ids, batch.timestamps, batch.sources, batch.payloads, batch.extras
        )
    extras = None
    if any(batch.extras is not None for batch in batches):
        extras = [extra for batch in batches for extra in (batch.extras or [b""] * len(batch))]
    topics, event_ids, timestamps, sources, payloads = (
        list(chain.from_iterable(map(column, batches))) for column in _COLUMNS
    )
    return GroupColumns(topics, event_ids, timestamps, sources, payloads, extras)


StoredPayloads = Callable[[Sequence[tuple[str, int]]], Iterable[tuple[int, bytes]]]
"""(offset, payload) once for each of these (topic, offset) pairs. Not all are held at a time: they may be large."""


def decide(
    group: GroupColumns,
    found: Mapping[bytes, int],
    stored_payloads: StoredPayloads,
    verdicts: Mapping[int, bool] = MappingProxyType({}),
) -> Decision:
    """`found`: the values of those digests that are stored. Reads stored payloads only where fingerprints differ.

    `verdicts`: for places whose payload was compared before with the stored one, whether it differs.
    """
    if not found and len(set(group.digests)) == len(group):
        return Decision(new_places=None)
    decision = Decision(new_places=[])
    new_place_of: dict[bytes, int] = {}
    new_places: list[int] = []
    to_compare: list[Duplicate] = []
    for place, digest in enumerate(group.digests):
        value = found.get(digest)
        if value is not None:
            offset, fingerprint = unpack_value(value)
            duplicate = Duplicate(place, offset, None, verdicts.get(place, False))
            if place not in verdicts and fingerprint not in (_ERASED, group.fingerprints[place]) and offset:
                to_compare.append(duplicate)
            decision.duplicates.append(duplicate)
            continue
        new_place = new_place_of.setdefault(digest, len(new_places))
        if new_place == len(new_places):
            new_places.append(place)
            continue
        first = new_places[new_place]
        differs = group.fingerprints[first] != group.fingerprints[place] and not same_json_value(
            bytes(group.payloads[first]), bytes(group.payloads[place])
        )
        decision.duplicates.append(Duplicate(place, 0, new_place, differs))
    decision.new_places = new_places
    if to_compare:
        by_offset: dict[int, list[Duplicate]] = {}
        for duplicate in to_compare:
            by_offset.setdefault(duplicate.offset, []).append(duplicate)
        for offset, stored in stored_payloads([(group.topics[each.place], each.offset) for each in to_compare]):
            for duplicate in by_offset[offset]:
                duplicate.is_conflict = not same_json_value(stored, bytes(group.payloads[duplicate.place]))
    return decision


def receipts(count: int, decision: Decision, first_offset: int) -> tuple[Sequence[int], Sequence[int] | None]:
    """(offsets, statuses or None when all were stored) of the group's events, once its first offset is known."""
    if decision.new_places is None:
        return range(first_offset, first_offset + count), None
    offsets = array("q", bytes(8 * count))
    statuses = bytearray(count)
    for new_place, place in enumerate(decision.new_places):
        offsets[place] = first_offset + new_place
    for duplicate in decision.duplicates:
        known = duplicate.new_place is None
        offsets[duplicate.place] = duplicate.offset if known else first_offset + (duplicate.new_place or 0)
        statuses[duplicate.place] = ReceiptStatus.CONFLICT if duplicate.is_conflict else ReceiptStatus.DUPLICATE
    return offsets, statuses
