"""A request body to a batch: what is kept, where a refusal points, and what a hostile body may cost."""

from __future__ import annotations

import json
import sys
import tracemalloc

import pytest

from sekali.errors import (
    VIOLATIONS_SHOWN_MAX,
    BodyTooLarge,
    EventTooLarge,
    InvalidEvent,
    NotJson,
    RequestRefused,
    SekaliError,
    TooManyEvents,
)
from sekali.wire.native import DecodeLimits, decode_publish
from sekali.wire.rules import ITEM_CODE_MEANINGS, ItemCode
from tests.bad_inputs import CASES, event, nested

LIMITS = DecodeLimits(batch_events_max=50_000, event_bytes_max=1 << 20, depth_max=128, body_bytes_max=32 << 20)
SMALL = DecodeLimits(batch_events_max=10, event_bytes_max=1024, depth_max=8, body_bytes_max=4096)


def refusal(body: bytes, limits: DecodeLimits = LIMITS, *, partial: bool = False) -> SekaliError:
    with pytest.raises(RequestRefused) as caught:
        decode_publish(body, limits, partial=partial)
    return caught.value


def array(*items: bytes) -> bytes:
    return b"[" + b",".join(items) + b"]"


def test_one_object_and_an_array_give_the_same_columns() -> None:
    one = decode_publish(event("a"), LIMITS)
    many = decode_publish(array(event("a")), LIMITS)
    assert (one.is_single, many.is_single) == (True, False)
    assert (one.topics, one.event_ids, one.timestamps, one.sources, one.payloads, one.extras) == (
        many.topics,
        many.event_ids,
        many.timestamps,
        many.sources,
        many.payloads,
        many.extras,
    )
    assert one.body_bytes == len(event("a"))


def test_an_empty_array_is_an_empty_batch() -> None:
    for body in (b"[]", b" [ ] ", b"\n\r\t[\n]"):
        batch = decode_publish(body, LIMITS)
        assert len(batch) == 0
        assert not batch.is_single
        assert batch.body_bytes == len(body)


def test_payload_bytes_are_kept_as_sent() -> None:
    payload = '{ "b":1.10,\n"a" : [1E400, -0, 123456789012345678901234567890], "a":"\\u00e9\\/\u00e9", "a":{} }'
    for body in (event("x", payload=payload), event("x", payload=payload, raw_extra="1")):
        assert decode_publish(body, LIMITS).payloads == [payload.encode()]


def test_unknown_members_are_kept_and_reserved_ones_dropped() -> None:
    body = array(
        event("plain"),
        event("extra", raw_x='{ "y": 1.0 }', raw_offset='"anything"', raw_level='"\\u00e9"', raw_received_at="null"),
        event("reserved", raw_offset="17", raw_received_at='"2024-01-01T00:00:00.000000Z"'),
        event("quoted")[:-1] + b',"a\\"b\\u0000":[]}',
    )
    extras = decode_publish(body, LIMITS).extras
    assert extras == [b"", b'"x":{ "y": 1.0 },"level":"\\u00e9"', b"", b'"a\\"b\\u0000":[]']


def test_extras_are_none_when_only_reserved_members_came() -> None:
    assert decode_publish(array(event("a", raw_offset="1")), LIMITS).extras is None


def test_names_are_unescaped_and_compared_as_sent() -> None:
    batch = decode_publish(event("x", raw_topic='"\\u0061\\ud83c\\udf3a"', raw_source='"\\"\\\\\\/"'), LIMITS)
    assert batch.topics == ["a\U0001f33a"]
    assert batch.sources == ['"\\/']


def test_every_broken_rule_of_every_event_is_told_with_its_place() -> None:
    body = array(
        event("good"),
        event("", topic=" \0", timestamp="now", source="a" * 1025, payload="[]"),
        b"7",
        b'{"topic":"a","topic":"a","event_id":1,"x":1,"x":2}',
        event("deep", payload=nested(128)),
        event("b" * 256, raw_received_at="1,\n" + '"received_at":1'),
    )
    error = refusal(body)
    assert isinstance(error, InvalidEvent)
    assert sorted((violation.pointer, violation.code) for violation in error.violations) == [
        ("/1/event_id", "empty"),
        ("/1/payload", "not_an_object"),
        ("/1/source", "too_long"),
        ("/1/timestamp", "not_a_timestamp"),
        ("/1/topic", "control_character"),
        ("/1/topic", "surrounding_whitespace"),
        ("/2", "not_an_object"),
        ("/3", "repeated_member"),
        ("/3/event_id", "wrong_type"),
        ("/3/payload", "missing_field"),
        ("/3/source", "missing_field"),
        ("/3/timestamp", "missing_field"),
        ("/3/topic", "repeated_member"),
        ("/4", "too_deep"),
        ("/5/event_id", "too_long"),
        ("/5/received_at", "repeated_member"),
    ]
    assert error.violations_total == 16


def test_a_single_event_is_pointed_into_directly() -> None:
    error = refusal(event(""))
    assert [(violation.pointer, violation.code) for violation in error.violations] == [("/event_id", "empty")]


def test_the_first_100_violations_are_shown_and_all_are_counted() -> None:
    error = refusal(array(*[b"{}"] * 1000))
    assert len(error.violations) == VIOLATIONS_SHOWN_MAX
    assert error.violations_total == 5000
    assert "5000 rules" in error.detail


@pytest.mark.parametrize("wrapper", ['{"events":[%s]}', '{"records":[%s],"count":1}', '{"events":[]}'])
def test_a_wrapped_batch_is_told_to_send_the_array_itself(wrapper: str) -> None:
    error = refusal(wrapper.replace("%s", event("x").decode()).encode())
    assert "send the array itself" in error.detail
    assert [(violation.pointer, violation.code) for violation in error.violations] == [("", "wrapped_batch")]


def test_an_object_without_any_field_misses_all_five() -> None:
    error = refusal(b'{"a":1}')
    assert {violation.pointer for violation in error.violations} == {
        "/topic",
        "/event_id",
        "/timestamp",
        "/source",
        "/payload",
    }


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.raw is None and not case.is_accepted], ids=lambda c: c.name
)
def test_no_refusal_repeats_the_input(case) -> None:
    """A marker beside the fault never appears in what is answered."""
    marker = b"Zaunkoenig"
    body = case.body_bytes[:200_000].replace(b"bad-inputs", marker).replace(b'"x"', b'"x' + marker + b'"')
    try:
        decode_publish(body, LIMITS)
    except SekaliError as error:
        told = [error.detail, *(violation.pointer + violation.detail for violation in error.violations)]
        assert marker.decode() not in "".join(told)


def test_the_smallest_repeat_of_all_is_found() -> None:
    error = refusal(event("x")[:-1] + b',"":1,"":1}')
    assert [(violation.pointer, violation.code) for violation in error.violations] == [("", "repeated_member")]
    assert decode_publish(event("x")[:-1] + b',"":1}', LIMITS).extras == [b'"":1']


def test_the_name_of_an_unknown_member_is_not_repeated_either() -> None:
    error = refusal(event("x")[:-1] + b',"Zaunkoenig":1,"Zaunkoenig":2}')
    assert [(violation.pointer, violation.code) for violation in error.violations] == [("", "repeated_member")]
    assert "Zaunkoenig" not in error.detail + error.violations[0].detail


def test_the_place_of_invalid_utf8_is_told_also_across_a_chunk_border() -> None:
    for at in (3, 65_535, 65_536, 65_537, 131_072, 200_000):
        body = bytearray(b"[" + b" " * 250_000 + "\u20ac".encode() + b"]")
        body[at] = 0xFF
        assert f"(byte {at})" in refusal(bytes(body)).detail
    for at in (65_534, 65_535, 65_536):
        body = bytearray(b"[" + b" " * 250_000)
        body[at : at + 2] = b"\xe2\x82"
        assert f"(byte {at})" in refusal(bytes(body)).detail
        body[at : at + 3] = "\u20ac".encode()
        assert "not UTF-8" not in refusal(bytes(body)).detail
    assert "not UTF-8" in refusal(event("x") + b"\xe2\x82").detail


def test_characters_of_several_bytes_across_a_chunk_border_are_taken() -> None:
    for shift in range(4):
        payload = '{"a":"' + "b" * shift + "\U0001f33a" * 40_000 + '"}'
        assert decode_publish(event("x", payload=payload), LIMITS).payloads == [payload.encode()]


def test_sizes_are_those_of_the_bytes_sent() -> None:
    padded = event("x", payload='{"a":"' + "y" * (SMALL.event_bytes_max - len(event("x", payload='{"a":""}'))) + '"}')
    assert len(padded) == SMALL.event_bytes_max
    longer = padded.replace(b"{}", b"{ }").replace(b":", b": ", 1)
    for good in (padded, b"  " + padded + b"\n", array(padded, event("z")), array(b" " + padded + b" ")):
        assert len(decode_publish(good, SMALL)) >= 1
    for place, bad in ((0, array(longer)), (1, array(padded, longer)), (None, longer)):
        error = refusal(bad, SMALL)
        assert isinstance(error, EventTooLarge)
        pointer = "" if place is None else f"/{place}"
        assert [(violation.pointer, violation.code) for violation in error.violations] == [(pointer, "event_too_large")]
    escaped = event("x", raw_source='"' + "\\u0061" * 170 + '"')
    assert len(escaped) > SMALL.event_bytes_max
    assert isinstance(refusal(array(event("y"), escaped), SMALL), EventTooLarge)


def test_a_large_event_is_told_even_behind_many_other_faults() -> None:
    limits = DecodeLimits(batch_events_max=1000, event_bytes_max=1024, depth_max=8, body_bytes_max=1 << 20)
    error = refusal(array(*[b"{}"] * 500, event("x", payload='{"a":"%s"}' % ("y" * 1024))), limits)
    assert isinstance(error, EventTooLarge)
    assert error.violations[0].pointer == "/500"


def test_body_and_count_limits_are_exact() -> None:
    body = array(*[event(str(i), source="s") for i in range(10)])
    limits = DecodeLimits(batch_events_max=10, event_bytes_max=1024, depth_max=8, body_bytes_max=len(body))
    assert len(decode_publish(body, limits)) == 10
    assert isinstance(refusal(body + b" ", limits), BodyTooLarge)
    for eleven in (array(*[event(str(i)) for i in range(11)]), array(*[b"1"] * 11), array(*[b"[1,2]"] * 11)):
        assert isinstance(refusal(eleven, SMALL), TooManyEvents)
        assert isinstance(refusal(eleven, SMALL, partial=True), TooManyEvents)
    assert isinstance(refusal(array(*[b"[1,2]"] * 10), SMALL), InvalidEvent)
    assert isinstance(refusal(array(*[b"[1,2,3,4,5,6,7,8,9,0,1,2]"] * 10), SMALL), InvalidEvent)


def test_partial_keeps_the_good_items_and_tells_of_the_others() -> None:
    body = array(event("a"), b"1", event("b", raw_x="1"), event(""), event("c", payload=nested(128)), event("d"))
    batch = decode_publish(body, LIMITS, partial=True)
    assert batch.event_ids == ["a", "b", "d"]
    assert batch.extras == [b"", b'"x":1', b""]
    assert [(rejection.index, rejection.code) for rejection in batch.rejections] == [
        (1, "not_an_object"),
        (3, "empty"),
        (4, "too_deep"),
    ]


def test_partial_takes_an_item_that_is_too_large_for_a_rejection() -> None:
    large = event("x", payload='{"a":"%s"}' % ("y" * 1024))
    batch = decode_publish(array(event("a"), large), SMALL, partial=True)
    assert batch.event_ids == ["a"]
    assert [(rejection.index, rejection.code) for rejection in batch.rejections] == [(1, "event_too_large")]


def test_partial_changes_nothing_for_one_object_and_for_what_is_not_json() -> None:
    assert isinstance(refusal(event(""), partial=True), InvalidEvent)
    assert isinstance(refusal(array(event("a"), b"{"), partial=True), NotJson)


def test_nesting_is_counted_from_the_event_and_not_fooled_by_strings() -> None:
    limit = SMALL.depth_max
    fooling = '{"[[[[[[[[[[":"{{{{{{{{{{","a":"\\"[[[[[[[[[["}'
    for levels, good in ((limit - 1, True), (limit, False)):
        for body in (
            event("x", payload=nested(levels)),
            array(event("x", payload=nested(levels))),
            event("x", raw_extra="[" * levels + "]" * levels),
            event("x", payload='{"a":"]]]]]]]]","b":' + nested(levels - 1) + "}"),
        ):
            if good:
                assert len(decode_publish(body, SMALL)) == 1
            else:
                assert [violation.code for violation in refusal(body, SMALL).violations] == ["too_deep"]
    assert len(decode_publish(event("x", payload=fooling), SMALL)) == 1


@pytest.mark.parametrize("levels", [200, 900, 1000, 5_000, 100_000, 1_000_000])
@pytest.mark.parametrize("closed", [True, False])
def test_no_depth_crashes_the_decoder(levels: int, closed: bool) -> None:
    deep = b'{"a":' + b"[" * levels + (b"]" * levels + b"}" if closed else b"")
    before, after = event("x", payload="{}").rsplit(b"{}", 1)
    for body in (before + deep + (after if closed else b""), b"[" + event("y") + b"," + before + deep):
        error = refusal(body)
        assert error.code in ("invalid_event", "not_json", "event_too_large")
        if closed and levels < 900:
            assert error.code == ("invalid_event" if body[:1] == b"{" else "not_json")
        if levels >= 100_000:
            assert [violation.code for violation in error.violations] == ["too_deep"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * 8_000_000 + b"1]",
        b"[" + b"{}," * 4_000_000 + b"{}]",
        b"[" + b'"",' * 4_000_000 + b'""]',
        b"["
        + event("a", topic="a", timestamp="20240101", source="a")
        + (b"," + event("a", topic="a", timestamp="20240101", source="a")) * 200_000
        + b"]",
        b"[" + b",".join([event("a").replace(b"event_id", b"event\\u005fid")] * 100_000) + b"]",
    ],
    ids=["numbers", "objects", "strings", "events", "escaped-events"],
)
def test_an_array_of_too_many_items_is_refused_without_building_them(body: bytes) -> None:
    tracemalloc.start()
    try:
        error = refusal(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, TooManyEvents)
    assert peak_bytes < 4 << 20


def test_a_batch_with_a_lot_inside_its_payloads_is_still_counted_right() -> None:
    payload = json.dumps({"event_id": [{"event_id": i} for i in range(20)]})
    limits = DecodeLimits(batch_events_max=100, event_bytes_max=1 << 20, depth_max=128, body_bytes_max=32 << 20)
    assert len(decode_publish(array(*[event(str(i), payload=payload) for i in range(100)]), limits)) == 100
    assert len(decode_publish(array(*[event(str(i), payload=payload, raw_x="1") for i in range(100)]), limits)) == 100
    assert isinstance(refusal(array(*[event(str(i), payload=payload) for i in range(101)]), limits), TooManyEvents)


def test_one_event_with_more_members_than_a_batch_may_have_events_is_one_event() -> None:
    limits = DecodeLimits(batch_events_max=10, event_bytes_max=1 << 20, depth_max=128, body_bytes_max=32 << 20)
    payload = '{"list":[' + ",".join(['"event_id"'] * 1000) + "]}"
    assert len(decode_publish(event("x", payload=payload), limits)) == 1
    many_members = {f"raw_extra_{i}": "1" for i in range(1000)}
    assert len(decode_publish(event("x", payload=payload, **many_members), limits)) == 1
    assert len(decode_publish(array(event("x", payload=payload, **many_members)), limits)) == 1


def test_an_integer_longer_than_python_converts_is_no_matter() -> None:
    payload = '{"a":' + "9" * (sys.get_int_max_str_digits() + 1) + "}"
    for body in (event("x", payload=payload), event("x", raw_n=payload)):
        assert len(decode_publish(body, LIMITS)) == 1


def test_every_item_code_has_its_sentence() -> None:
    assert list(ITEM_CODE_MEANINGS) == list(ItemCode)
    assert all(meaning.endswith(".") for meaning in ITEM_CODE_MEANINGS.values())
