"""What the server writes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekali.event import BatchOutcome, EventBatch, ReceiptStatus, Rejection, StoredEvents
from sekali.wire.answers import receipt_header
from sekali.wire.native import (
    DecodeLimits,
    decode_publish,
    encode_events,
    encode_publish_answer,
    format_time_us,
    ndjson_line,
)

LIMITS = DecodeLimits(batch_events_max=1000, event_bytes_max=1 << 20, depth_max=128, body_bytes_max=32 << 20)
STORED, DUPLICATE, CONFLICT = ReceiptStatus.STORED, ReceiptStatus.DUPLICATE, ReceiptStatus.CONFLICT


def stored(*rows: tuple[str, str, str, str, bytes, bytes], plain: bool = False, extras: bool = True) -> StoredEvents:
    topics, event_ids, timestamps, sources, payloads, extra = (list(column) for column in zip(*rows, strict=True))
    return StoredEvents(
        topics=topics,
        event_ids=event_ids,
        timestamps=timestamps,
        sources=sources,
        payloads=payloads,
        extras=extra if extras else None,
        offsets=list(range(17, 17 + len(rows))),
        received_at_us=[1_704_067_200_000_001] * len(rows),
        text_is_plain=plain,
    )


def batch(count: int, rejections: list[Rejection] | None = None) -> EventBatch:
    names = [str(i) for i in range(count)]
    return EventBatch(names, names, names, names, [b"{}"] * count, None, 0, rejections=rejections or [])


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_704_067_200_123_456, "2024-01-01T00:00:00.123456Z"),
        (2**31 * 1_000_000, "2038-01-19T03:14:08.000000Z"),
    ],
)
def test_store_time_is_written_in_full(us: int, text: str) -> None:
    assert format_time_us(us) == text


def test_members_come_in_their_order_with_the_payload_as_stored() -> None:
    row = ("orders", "e-1", "2024-01-01", "bench", b'{ "a":1.10, "a":2 }', b"")
    expected = (
        b'{"topic":"orders","event_id":"e-1","timestamp":"2024-01-01","source":"bench",'
        b'"payload":{ "a":1.10, "a":2 },"offset":17,"received_at":"2024-01-01T00:00:00.000001Z"}'
    )
    for events in (stored(row), stored(row, plain=True), stored(row, extras=False)):
        assert encode_events(events) == [expected]


def test_extra_members_come_after_the_payload() -> None:
    rows = [("t", "1", "d", "s", b"{}", b'"x":1,"y":{ }'), ("t", "2", "d", "s", b"{}", b"")]
    first, second = encode_events(stored(*rows))
    assert b'"payload":{},"x":1,"y":{ },"offset":17' in first
    assert b'"payload":{},"offset":18' in second


def test_no_events_are_no_lines() -> None:
    assert encode_events(StoredEvents([], [], [], [], [], None, [], [])) == []


def test_whatever_must_be_escaped_is_escaped() -> None:
    text = '"\\/\u2028\U0001f33a</script>\u00e9'
    row = (text, text, text, text, b"{}", b"")
    [encoded] = encode_events(stored(row))
    told = json.loads(encoded)
    assert [told[name] for name in ("topic", "event_id", "timestamp", "source")] == [text] * 4


def test_one_line_of_ndjson_holds_one_event() -> None:
    row = ("t", "1", "d", "s", b'{\r\n"a":\n"x\\r\\ny"\r}', b'"x":\n1')
    [encoded] = encode_events(stored(row))
    line = ndjson_line(encoded)
    assert line.endswith(b"}\n")
    assert not set(line[:-1]) & set(b"\r\n")
    assert json.loads(line) == json.loads(encoded)


names = st.text(min_size=1, max_size=8).map(lambda text: "".join(filter(str.isprintable, text)).strip() or "a")


@given(
    st.lists(
        st.tuples(names, names, names, st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2)),
        max_size=4,
    )
)
def test_what_was_published_comes_back_and_can_be_published_again(
    rows: list[tuple[str, str, str, dict[str, str]]],
) -> None:
    sent = [
        {
            "topic": topic,
            "event_id": event_id,
            "timestamp": "2024-01-01",
            "source": source,
            "payload": extra,
            "x": extra,
        }
        for topic, event_id, source, extra in rows
    ]
    first = decode_publish(json.dumps(sent).encode(), LIMITS)
    encoded = encode_events(
        StoredEvents(
            first.topics,
            first.event_ids,
            first.timestamps,
            first.sources,
            first.payloads,
            first.extras,
            range(1, len(first) + 1),
            [0] * len(first),
        )
    )
    for event, given_back, offset in zip(sent, map(json.loads, encoded), range(1, len(sent) + 1), strict=True):
        assert given_back == {**event, "offset": offset, "received_at": format_time_us(0)}
    again = decode_publish(b"[" + b",".join(encoded) + b"]", LIMITS)
    assert (again.topics, again.event_ids, again.payloads) == (first.topics, first.event_ids, first.payloads)
    assert (again.timestamps, again.sources, again.extras) == (first.timestamps, first.sources, first.extras)


def test_the_plain_answer_has_two_members() -> None:
    assert encode_publish_answer(batch(3), BatchOutcome([1, 2, 3]), 9, receipts=False) == b'{"accepted":3,"queued":9}'


def test_an_empty_batch_is_answered_with_zeros() -> None:
    assert encode_publish_answer(batch(0), BatchOutcome([]), 0, receipts=False) == b'{"accepted":0,"queued":0}'
    told = json.loads(encode_publish_answer(batch(0), BatchOutcome([], []), 0, receipts=True))
    assert told == {"accepted": 0, "queued": 0, "receipts": []}


def test_conflicts_are_indices_of_the_request() -> None:
    outcome = BatchOutcome([1, 1, 2, 2], [STORED, CONFLICT, DUPLICATE, CONFLICT])
    assert json.loads(encode_publish_answer(batch(4), outcome, 4, receipts=False)) == {
        "accepted": 4,
        "queued": 4,
        "conflicts": [1, 3],
    }


def test_receipts_tell_status_and_offset_in_order() -> None:
    outcome = BatchOutcome([5, 1, 2], [STORED, DUPLICATE, CONFLICT])
    told = json.loads(encode_publish_answer(batch(3), outcome, 3, receipts=True))
    assert told["receipts"] == [
        {"status": "stored", "offset": 5},
        {"status": "duplicate", "offset": 1},
        {"status": "conflict", "offset": 2},
    ]
    told = json.loads(encode_publish_answer(batch(2), BatchOutcome([5, 6]), 3, receipts=True))
    assert told["receipts"] == [{"status": "stored", "offset": 5}, {"status": "stored", "offset": 6}]


def test_rejected_items_shift_the_places_of_the_others() -> None:
    rejections = [Rejection(0, "empty", 'event_id "must" not be empty.'), Rejection(2, "too_deep", "Too deep.")]
    outcome = BatchOutcome([7, 7], [STORED, CONFLICT])
    told = json.loads(encode_publish_answer(batch(2, rejections), outcome, 2, receipts=True))
    assert told == {
        "accepted": 2,
        "queued": 2,
        "conflicts": [3],
        "receipts": [
            {"status": "rejected", "code": "empty", "detail": 'event_id "must" not be empty.'},
            {"status": "stored", "offset": 7},
            {"status": "rejected", "code": "too_deep", "detail": "Too deep."},
            {"status": "conflict", "offset": 7},
        ],
    }


def test_a_batch_of_rejections_only_is_answered() -> None:
    told = json.loads(encode_publish_answer(batch(0, [Rejection(0, "empty", "x")]), BatchOutcome([]), 0, receipts=True))
    assert told == {"accepted": 0, "queued": 0, "receipts": [{"status": "rejected", "code": "empty", "detail": "x"}]}


def test_the_receipt_header_tells_of_one_event() -> None:
    assert receipt_header(BatchOutcome([17])) == "stored; offset=17"
    assert receipt_header(BatchOutcome([17], [DUPLICATE])) == "duplicate; offset=17"
    assert receipt_header(BatchOutcome([17], [CONFLICT])) == "conflict; offset=17"
