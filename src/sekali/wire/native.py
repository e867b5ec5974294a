"""Sekali's own JSON: a request body to the columns of an EventBatch.

Most requests are taken by checks over whole columns, in about a microsecond an event. A request with anything out of
the ordinary goes through `rules.examine_event` one event at a time. Both give the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from sekali.errors import Violation
from sekali.event import EVENT_ID_BYTES_MAX, SOURCE_BYTES_MAX, TOPIC_BYTES_MAX, EventBatch, Rejection
from sekali.timestamps import are_timestamps, is_timestamp
from sekali.wire.answers import encode_events, encode_ledger, encode_publish_answer, format_time_us, ndjson_line
from sekali.wire.body import check_root, refuse_too_many_items, split_items, too_many
from sekali.wire.rules import (
    FIELDS,
    DecodeLimits,
    ExactEvent,
    are_names,
    examine_all,
    examine_event,
    nesting_exceeds,
)
from sekali.wire.seen import decode_seen, encode_seen

__all__ = [
    "DecodeLimits",
    "decode_publish",
    "decode_seen",
    "encode_events",
    "encode_ledger",
    "encode_publish_answer",
    "encode_seen",
    "format_time_us",
    "ndjson_line",
]


_Topic = Annotated[str, msgspec.Meta(min_length=1, max_length=TOPIC_BYTES_MAX)]
_EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_ID_BYTES_MAX)]
_Source = Annotated[str, msgspec.Meta(min_length=1, max_length=SOURCE_BYTES_MAX)]
"""In characters. Of names beyond ASCII the bytes are counted afterwards."""


class _Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    topic: _Topic
    event_id: _EventId
    timestamp: str
    source: _Source
    payload: msgspec.Raw


_ONE_EVENT: Final = msgspec.json.Decoder(_Event)
_EVENTS: Final = msgspec.json.Decoder(list[_Event])

_EMPTY_EVENT_BYTES: Final = len(b'{"topic":"","event_id":"","timestamp":"","source":"","payload":}')
_SMALLEST_EVENT_BYTES: Final = len(b'{"topic":"a","event_id":"a","timestamp":"20240101","source":"a","payload":{}}')
_SMALLEST_REPEATED_FIELD_BYTES: Final = len(b'"topic":"",')
_NAMES_BYTES_MAX: Final = TOPIC_BYTES_MAX + EVENT_ID_BYTES_MAX + SOURCE_BYTES_MAX
_FIELDS_QUOTED: Final = tuple(f'"{field}"'.encode() for field in FIELDS)
_OPEN_OBJECT: Final = ord("{")


def decode_publish(body: bytes, limits: DecodeLimits, *, partial: bool = False) -> EventBatch:
    """The events of a publish request, one object or an array of them.

    Raises BodyTooLarge, NotJson, WrongRoot, TooManyEvents, EventTooLarge, InvalidEvent with every broken rule.
    With `partial`, an item of an array that breaks a rule becomes a Rejection instead; a body that is one object is
    no batch, so nothing changes for it. Nesting beyond what the parser bears (some 900 levels) refuses any request
    with `too_deep`, whether or not the rest is JSON.
    """
    batch = decode_plain_event(body, limits)
    if batch is not None:
        return batch
    root = check_root(body, limits)
    batch = decode_by_columns(body, root, limits)
    return decode_by_items(body, root, limits, partial=partial) if batch is None else batch


def decode_plain_event(body: bytes, limits: DecodeLimits) -> EventBatch | None:
    """The batch of a body that is one event in ASCII, without anything out of the ordinary; None for any other body."""
    if body[:1] != b"{" or not body.isascii() or len(body) > min(limits.event_bytes_max, limits.body_bytes_max):
        return None
    try:
        event = _ONE_EVENT.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    topic, event_id, timestamp, source, payload = (
        event.topic,
        event.event_id,
        event.timestamp,
        event.source,
        bytes(event.payload),
    )
    text = f"{topic}{event_id}{source}{timestamp}"
    is_plain = (
        text.isascii()
        and text.isprintable()
        and " " not in text
        and payload[0] == _OPEN_OBJECT
        and len(payload) < 2 * (limits.depth_max - 1)
        and len(body) - len(text) - len(payload) - _EMPTY_EVENT_BYTES < _SMALLEST_REPEATED_FIELD_BYTES
        and is_timestamp(timestamp)
    )
    if not is_plain:
        return None
    return EventBatch([topic], [event_id], [timestamp], [source], [payload], None, len(body), is_single=True)


def _events_at_most(body: bytes) -> int:
    """A bound on how many good events the body can hold: each names its event_id, in letters or with one escaped."""
    return body.count(b'"event_id"') + sum(map(body.count, (b"\\u005", b"\\u006", b"\\u007")))


def decode_by_columns(body: bytes, root: bytes, limits: DecodeLimits) -> EventBatch | None:
    """The batch, or None where only a look at each event can tell whether the rules are kept."""
    events_max = limits.batch_events_max
    is_single = root == b"{"
    may_be_too_many = not is_single and len(body) > _SMALLEST_EVENT_BYTES * events_max
    if may_be_too_many and _events_at_most(body) > events_max:
        refuse_too_many_items(body, limits)
    try:
        events = [_ONE_EVENT.decode(body)] if is_single else _EVENTS.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if len(events) > events_max:
        raise too_many(limits)
    batch = EventBatch(
        topics=[event.topic for event in events],
        event_ids=[event.event_id for event in events],
        timestamps=[event.timestamp for event in events],
        sources=[event.source for event in events],
        payloads=[bytes(event.payload) for event in events],
        extras=None,
        body_bytes=len(body),
        is_single=is_single,
    )
    if not events:
        return batch
    texts = "".join((*batch.topics, *batch.event_ids, *batch.timestamps, *batch.sources))
    # JSON allows no raw control character but DEL (RFC 8259, 7): without escapes no text holds one.
    may_hold_controls = not body.isascii() or b"\\" in body or b"\x7f" in body
    kept = (
        (_are_names(batch) if may_hold_controls or " " in texts else True)
        and are_timestamps(batch.timestamps, may_hold_controls=may_hold_controls)
        and _are_shallow_objects(batch.payloads, limits)
        and _are_small_without_repeats(body, batch, texts, limits)
    )
    return batch if kept else None


def _are_names(batch: EventBatch) -> bool:
    return (
        are_names(batch.topics, TOPIC_BYTES_MAX)
        and are_names(batch.event_ids, EVENT_ID_BYTES_MAX)
        and are_names(batch.sources, SOURCE_BYTES_MAX)
    )


def _are_shallow_objects(payloads: Sequence[bytes], limits: DecodeLimits) -> bool:
    """True when each payload is an object that keeps the event within its depth. A level takes two bytes at least."""
    if [payload for payload in payloads if payload[0] != _OPEN_OBJECT]:
        return False
    levels_max = limits.depth_max - 1
    if max(map(len, payloads)) < 2 * levels_max:
        return True
    return not any(nesting_exceeds(payload, levels_max) for payload in payloads)


def _are_small_without_repeats(body: bytes, batch: EventBatch, texts: str, limits: DecodeLimits) -> bool:
    """True when no event is too large and none has a member twice.

    An event without white space and escapes has a size that follows from its five values. One that is longer by less
    than the smallest field cannot have a field twice. If that holds for the body as a whole, no event needs a look.
    """
    texts_bytes = len(texts) if texts.isascii() else len(texts.encode())
    commas_and_brackets = 0 if batch.is_single else len(batch) + 1
    compact_bytes = texts_bytes + sum(map(len, batch.payloads)) + _EMPTY_EVENT_BYTES * len(batch) + commas_and_brackets
    if len(body) - compact_bytes >= _SMALLEST_REPEATED_FIELD_BYTES:
        return _each_is_small_without_repeats(body, batch, limits)
    if len(body) <= limits.event_bytes_max:
        return True
    longest_bytes = max(map(len, batch.payloads)) + 4 * max(map(len, batch.timestamps)) + _NAMES_BYTES_MAX
    if longest_bytes + _EMPTY_EVENT_BYTES + _SMALLEST_REPEATED_FIELD_BYTES <= limits.event_bytes_max:
        return True
    return _each_is_small_without_repeats(body, batch, limits)


def _each_is_small_without_repeats(body: bytes, batch: EventBatch, limits: DecodeLimits) -> bool:
    items = split_items(body, b"{" if batch.is_single else b"[", limits)
    texts = map("".join, zip(batch.topics, batch.event_ids, batch.timestamps, batch.sources, strict=True))
    for item, text, payload in zip(items, texts, batch.payloads, strict=True):
        if len(item) > limits.event_bytes_max:
            return False
        compact_bytes = (len(text) if text.isascii() else len(text.encode())) + len(payload) + _EMPTY_EVENT_BYTES
        if len(item) - compact_bytes >= _SMALLEST_REPEATED_FIELD_BYTES and not _names_each_field_once(item):
            return False
    return True


def _names_each_field_once(item: bytes) -> bool:
    """True when the name of each field occurs once in the item's bytes, and so, none being escaped, in the event."""
    return b"\\u00" not in item and all(item.count(name) == 1 for name in _FIELDS_QUOTED)


def decode_by_items(body: bytes, root: bytes, limits: DecodeLimits, *, partial: bool) -> EventBatch:
    """The batch, each event examined alone. Raises as decode_publish."""
    is_single = root == b"{"
    items = split_items(body, root, limits)
    rejections: list[Rejection] = []
    if partial and not is_single:
        events = []
        for index, item in enumerate(items):
            examined = examine_event(item, f"/{index}", limits)
            if isinstance(examined, ExactEvent):
                events.append(examined)
            else:
                rejections.append(_rejection(index, examined))
    else:
        events = examine_all(items, examine_event, limits, is_single=is_single, outcome="Nothing was stored.")
    return EventBatch(
        topics=[event.topic for event in events],
        event_ids=[event.event_id for event in events],
        timestamps=[event.timestamp for event in events],
        sources=[event.source for event in events],
        payloads=[event.payload for event in events],
        extras=[event.extras for event in events] if any(event.extras for event in events) else None,
        body_bytes=len(body),
        is_single=is_single,
        rejections=rejections,
    )


def _rejection(index: int, violations: Sequence[Violation]) -> Rejection:
    return Rejection(index, str(violations[0].code), " ".join(violation.detail for violation in violations))
