"""The seen look-up: what may be asked, and the answer."""

from __future__ import annotations

import json

import pytest

from sekali.errors import InvalidEvent, NotJson, RequestRefused, SekaliError, TooManyEvents, WrongRoot
from sekali.event import SeenAnswer
from sekali.wire.native import DecodeLimits, decode_publish, decode_seen, encode_seen
from tests.bad_inputs import event

LIMITS = DecodeLimits(batch_events_max=10, event_bytes_max=1024, depth_max=8, body_bytes_max=1 << 16)


def refusal(body: bytes) -> SekaliError:
    with pytest.raises(RequestRefused) as caught:
        decode_seen(body, LIMITS)
    return caught.value


def test_one_key_and_several() -> None:
    assert decode_seen(b'{"topic":"a","event_id":"b"}', LIMITS) == ([("a", "b")], True)
    assert decode_seen(b'[{"topic":"a","event_id":"b"}, {"event_id": "c", "topic": "a"}]', LIMITS) == (
        [("a", "b"), ("a", "c")],
        False,
    )
    assert decode_seen(b"[]", LIMITS) == ([], False)


@pytest.mark.parametrize("indent", [None, 1, 8])
def test_spacing_and_escapes_are_no_matter(indent: int | None) -> None:
    names = ["b\u00e9", '"\\', "\U0001f33a", "a b"]
    body = json.dumps([{"topic": "t", "event_id": name} for name in names], indent=indent).encode()
    assert decode_seen(body, LIMITS) == ([("t", name) for name in names], False)


def test_an_event_can_be_asked_for_as_it_is_published() -> None:
    body = b"[" + event("a") + b"," + event("b", raw_offset="1", raw_x="2") + b"]"
    assert decode_seen(body, LIMITS) == ([("bad-inputs", "a"), ("bad-inputs", "b")], False)


@pytest.mark.parametrize(
    ("item", "pointer", "code"),
    [
        ("{}", "/1/topic", "missing_field"),
        ('{"topic":"a"}', "/1/event_id", "missing_field"),
        ('{"topic":"a","event_id":1}', "/1/event_id", "wrong_type"),
        ('{"topic":"a","event_id":""}', "/1/event_id", "empty"),
        ('{"topic":" a","event_id":"b"}', "/1/topic", "surrounding_whitespace"),
        ('{"topic":"a\\u0000","event_id":"b"}', "/1/topic", "control_character"),
        ('{"topic":"' + "a" * 256 + '","event_id":"b"}', "/1/topic", "too_long"),
        ('{"topic":"a","event_id":"b","topic":"a"}', "/1/topic", "repeated_member"),
        ('{"topic":"","event_id":"b","topic":"a"}', "/1/topic", "repeated_member"),
        ('{"topic":"a","event_id":"b","t\\u006fpic":"a"}', "/1/topic", "repeated_member"),
        ('{"topic":"a","event_id":"b","x":1,"x":1}', "/1", "repeated_member"),
        ('{"topic":"a","event_id":"b","x":[[[[[[[[1]]]]]]]]}', "/1", "too_deep"),
        ("[]", "/1", "not_an_object"),
        ("null", "/1", "not_an_object"),
    ],
)
def test_a_key_keeps_the_rules_of_events(item: str, pointer: str, code: str) -> None:
    error = refusal(f'[{{"topic":"a","event_id":"b"}},{item}]'.encode())
    assert isinstance(error, InvalidEvent)
    assert (error.violations[0].pointer, error.violations[0].code) == (pointer, code)


def test_the_body_keeps_the_rules_of_publish() -> None:
    assert isinstance(refusal(b""), NotJson)
    assert isinstance(refusal(b'{"topic":"a"'), NotJson)
    assert isinstance(refusal(b'"a"'), WrongRoot)
    assert isinstance(
        refusal(b"[" + b'{"topic":"a","event_id":"b"},' * 10 + b'{"topic":"a","event_id":"b"}]'), TooManyEvents
    )
    assert "send the array itself" in refusal(b'{"keys":[{"topic":"a","event_id":"b"}]}').detail
    assert refusal(b"[" * 60_000).violations[0].code == "too_deep"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"7",
        b"[{]",
        b"[" + b"{}," * 10 + b"{}]",
        b'{"topic":"a"}',
        b'[{"topic":"a","event_id":""},{}]',
        b'{"topic":"a","event_id":"b","x":"%b"}' % (b"x" * 1024),
    ],
)
def test_a_refused_look_up_does_not_speak_of_storing_as_a_refused_publish_does(body: bytes) -> None:
    looked_up = refusal(body)
    with pytest.raises(type(looked_up)) as published:
        decode_publish(body, LIMITS)
    assert "stored" not in looked_up.detail
    has_broken_rules = bool(published.value.violations)
    assert published.value.detail.startswith("Nothing was stored. ") == has_broken_rules


def test_the_answer_is_an_array() -> None:
    assert encode_seen([SeenAnswer(True, 17), SeenAnswer(False)]) == b'[{"seen":true,"offset":17},{"seen":false}]'
    assert encode_seen([]) == b"[]"
