"""Every construct of RFC 8259, valid, invalid and on the border, in the envelope and at every depth of a payload.

What is valid is taken, and comes back byte for byte; what is not is `not_json`, wherever it stands. The numbers are the
sections of the RFC.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest

from sekali.errors import NotJson, RequestRefused
from sekali.event import EventBatch
from sekali.wire.native import DecodeLimits, decode_publish

LIMITS = DecodeLimits(batch_events_max=100, event_bytes_max=64 * 1024, depth_max=128, body_bytes_max=1024 * 1024)

VALID: dict[str, list[bytes]] = {
    "2 white space": [b"[ ]", b"{\t}", b"[\n1\r,\t2 ]", b'{ "a" : 1 , "b" : 2 }', b'\r\n{"a":1}\n'],
    "3 literal names": [b"true", b"false", b"null"],
    "4 objects": [b"{}", b'{"a":1}', b'{"":0}', b'{"a":{"b":{"c":[]}}}', b'{"a":1,"a":2}', b'{"\\u0061":1,"b":2}'],
    "5 arrays": [b"[]", b"[1]", b"[1,2]", b'[1,"a",null,true,{},[]]', b"[[[[]]]]"],
    "6 numbers": [
        *(
            b"0",
            b"-0",
            b"1",
            b"-1",
            b"10",
            b"1.0",
            b"0.5",
            b"-0.0",
            b"1e5",
            b"1E5",
            b"1e+5",
            b"1E-05",
            b"0e0",
            b"1.5e10",
        ),
        *(
            b"9223372036854775808",
            b"18446744073709551617",
            b"1.10",
            b"1e999",
            b"-1E-999",
            b"1" * 400,
            b"0." + b"0" * 400,
        ),
    ],
    "7 strings": [
        *(b'""', b'"a"', b'" "', b'"\\""', b'"\\\\"', b'"\\/"', b'"\\b\\f\\n\\r\\t"', b'"/"', b'"\'"', b'"\x7f"'),
        *(
            b'"\\u0041"',
            b'"\\u00e9"',
            b'"\\u00E9"',
            b'"\\u0000"',
            b'"\\ud83d\\ude00"',
            b'"\\uD83D\\uDE00"',
            b'"\\uffff"',
        ),
        *(text.encode() for text in ('"é"', '"\U0001f600"', '"\u2028"', '"\ufffe"', '"\ufeff"', '"\u200d"', '"\x80"')),
    ],
}
INVALID: dict[str, list[bytes]] = {
    "2 white space": [b"\x0b1", b"\x0c1", b"\xc2\xa01", b"\xe2\x80\xa81", b"\xef\xbb\xbf1", b"1\x00", b"\x1c1"],
    "3 literal names": [
        *(b"tru", b"True", b"TRUE", b"truee", b"nul", b"NULL", b"None", b"nil", b"undefined", b"fals", b"yes"),
        *(b"NaN", b"-NaN", b"nan", b"Infinity", b"-Infinity", b"inf"),
    ],
    "4 objects": [
        *(b"{", b"}", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b'{"a"}', b'{"a":}', b"{:1}", b"{,}"),
        *(b"{a:1}", b"{'a':1}", b"{1:2}", b"{null:1}", b'{"a"=1}', b'{"a":1;"b":2}', b'{"a":1 "b":2}', b'{"a" 1}'),
        *(b'{"a":1,,"b":2}', b'{"a"::1}', b'{"a":1]', b'{"a":1}}', b'{"a":1}{"b":2}', b'{["a"]:1}'),
    ],
    "5 arrays": [
        b"[",
        b"]",
        b"[1",
        b"[1,",
        b"[1,]",
        b"[,1]",
        b"[,]",
        b"[1 2]",
        b"[1;2]",
        b"[1}",
        b"[1]]",
        b"(1)",
        b"[1,,2]",
    ],
    "6 numbers": [
        *(
            b"01",
            b"-01",
            b"00",
            b"+1",
            b".5",
            b"-.5",
            b"1.",
            b"-1.",
            b"1.e5",
            b"1e",
            b"1e+",
            b"1E-",
            b"e5",
            b"-",
            b"--1",
        ),
        *(b"0x10", b"1_000", b"1,000.", b"1 2", b"1f", b"1e5.5", b"1e1e1", b"0b1", b"1/2", "١".encode(), "−1".encode()),
    ],
    "7 strings": [
        *(b'"', b'"a', b"'a'", b"`a`", b'"\\"', b'"\\x41"', b'"\\a"', b'"\\0"', b'"\\\'"', b'"\\U0041"', b'"\\u{41}"'),
        *(b'"\\u"', b'"\\u1"', b'"\\u12"', b'"\\u123"', b'"\\u12G4"', b'"\\u 041"', b'"\\u-041"', b'"a" "b"', b'"\\'),
        *(b'"' + bytes((code,)) + b'"' for code in range(0x20)),
    ],
    "8.1 encoding": [
        *(b'"\xff"', b'"\xfe"', b'"\x80"', b'"\xc0\xaf"', b'"\xe0\x80\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"'),
        *(b'"\xe2\x82"', b'"\xc3"', b'"\xf8\x88\x80\x80\x80"', b'"\xc3\x28"'),
    ],
    "8.2 surrogates": [
        b'"\\ud800"',
        b'"\\udc00"',
        b'"\\ud800\\u0041"',
        b'"\\ud800\\ud800"',
        b'"\\ude00\\ud83d"',
        b'"\\ud83d',
    ],
    "no grammar at all": [
        b"// a\n1",
        b"/* a */1",
        b"# a\n1",
        b"1//",
        b"1/**/",
        b"<a/>",
        b"a: 1",
        b"\x1e1",
        b"1\n2",
        b"!1",
    ],
}


def cases(table: dict[str, list[bytes]]) -> list[tuple[str, bytes]]:
    return [(section, text) for section, texts in table.items() for text in texts]


def envelope(payload: bytes, extra: bytes = b"") -> bytes:
    return (
        b'{"topic":"t","event_id":"1","timestamp":"2024-01-01T00:00:00Z","source":"s","payload":'
        + payload
        + extra
        + b"}"
    )


def in_payload(value: bytes) -> bytes:
    return envelope(b'{"a":%b}' % value)


def deep_in_payload(value: bytes) -> bytes:
    return envelope(b'{"a":[{"b":[0,%b,1]}]}' % value)


def in_extra_member(value: bytes) -> bytes:
    return envelope(b"{}", b',"x":%b' % value)


def in_second_item(value: bytes) -> bytes:
    return b"[%b,%b]" % (envelope(b"{}").replace(b'"1"', b'"0"'), in_payload(value))


PLACES: list[Callable[[bytes], bytes]] = [in_payload, deep_in_payload, in_extra_member, in_second_item]
every_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)


@every_place
@pytest.mark.parametrize(("section", "value"), cases(VALID))
def test_a_valid_construct_is_taken_and_kept(section: str, value: bytes, place: Callable[[bytes], bytes]) -> None:
    body = place(value)
    json.loads(body)  # Python agrees, or the table is wrong
    batch = decode_publish(body, LIMITS)
    kept = batch.extras[-1] if place is in_extra_member and batch.extras else batch.payloads[-1]
    assert value.strip(b" \t\r\n") in bytes(kept)


@every_place
@pytest.mark.parametrize(("section", "value"), cases(INVALID))
def test_an_invalid_construct_is_not_json_wherever_it_stands(
    section: str, value: bytes, place: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(NotJson):
        decode_publish(place(value), LIMITS)


@pytest.mark.parametrize(("section", "value"), cases(INVALID))
def test_an_invalid_construct_is_refused_as_the_whole_body(section: str, value: bytes) -> None:
    with pytest.raises(RequestRefused):
        decode_publish(value, LIMITS)


# The envelope


def tokens_of(body: bytes) -> list[bytes]:
    """The structural tokens of a body without white space, strings and objects within them kept whole."""
    tokens: list[bytes] = []
    decoder = json.JSONDecoder()
    text, place = body.decode(), 0
    while place < len(text):
        if text[place] == '"':
            _, end = decoder.raw_decode(text, place)
        else:
            end = place + 1
        tokens.append(text[place:end].encode())
        place = end
    return tokens


def test_white_space_may_stand_between_any_two_tokens_and_nothing_else_may() -> None:
    body = b"[%b]" % envelope(b'{"a":[]}')
    tokens = tokens_of(body)
    plain = decode_publish(body, LIMITS)
    for place, between in itertools.product(range(len(tokens) + 1), (b" ", b"\t", b"\n", b"\r", b"\r\n \t")):
        spaced = b"".join(tokens[:place]) + between + b"".join(tokens[place:])
        assert columns(decode_publish(spaced, LIMITS)) == columns(plain), spaced
    for place, between in itertools.product(
        range(len(tokens) + 1), (b"\x0b", b"\x00", b"\xc2\xa0", b"/**/", b"\xef\xbb\xbf")
    ):
        with pytest.raises(RequestRefused):
            decode_publish(b"".join(tokens[:place]) + between + b"".join(tokens[place:]), LIMITS)


def columns(batch: EventBatch) -> tuple[object, ...]:
    payloads = [json.loads(payload) for payload in batch.payloads]
    return batch.topics, batch.event_ids, batch.timestamps, batch.sources, payloads


def test_no_token_of_the_envelope_can_be_left_away_or_doubled() -> None:
    body = envelope(b"{}")
    tokens = tokens_of(body)
    for place in range(len(tokens)):
        for changed in ([*tokens[:place], *tokens[place + 1 :]], [*tokens[:place], tokens[place], *tokens[place:]]):
            with pytest.raises(RequestRefused):
                decode_publish(b"".join(changed), LIMITS)


def test_a_body_that_ends_early_anywhere_is_not_json() -> None:
    body = b"[%b]" % envelope(b'{"a":"\xc3\xa9\\u00e9"}')
    for end in range(len(body)):
        with pytest.raises(RequestRefused):
            decode_publish(body[:end], LIMITS)


@pytest.mark.parametrize("name", [b"topic", b"event_id", b"timestamp", b"source", b"payload"])
def test_a_name_with_escapes_is_the_same_name(name: bytes) -> None:
    for place in range(len(name)):
        escaped = name[:place] + b"\\u%04x" % name[place] + name[place + 1 :]
        body = envelope(b"{}").replace(b'"%b"' % name, b'"%b"' % escaped)
        assert columns(decode_publish(body, LIMITS)) == columns(decode_publish(envelope(b"{}"), LIMITS))
        twice = body[:-1] + b',"%b":"2"}' % name
        with pytest.raises(RequestRefused):
            decode_publish(twice, LIMITS)
