"""Every bad input of bad_inputs_list.md as a request, with the answer it must get.

`CASES` is the table. Some inputs only look bad: they are accepted by contract, and `comes_back` says what a reader
must then be given. The limits are the defaults of the settings.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import zstandard

MIB = 1024 * 1024
EVENT_BYTES_MAX = 1 * MIB
BODY_BYTES_MAX = 32 * MIB
DEPTH_MAX = 128

TOPIC = "bad-inputs"
TIMESTAMP = "2024-01-01T00:00:00Z"
SOURCE = "tests"

JSON_HEADERS = (("content-type", "application/json"),)

CLOSED = 0
"""In `statuses`: the connection ends without an answer."""


@dataclass(frozen=True)
class Kept:
    """An event that must come back. `payload` is compared byte for byte, the rest as strings."""

    event_id: str
    payload: bytes = b"{}"
    topic: str = TOPIC
    timestamp: str = TIMESTAMP
    source: str = SOURCE
    extras: bytes = b""
    """Unknown members, as `"name":value` separated by commas."""


@dataclass(frozen=True)
class BadInput:
    """One request and its answer."""

    line: str
    """The line of bad_inputs_list.md, such as `JSON`."""
    item: str
    """The item of that line, word for word."""
    name: str
    """Unique over all cases."""
    statuses: tuple[int, ...]
    """One of these must come. More than one only where the HTTP library answers before the application does."""
    code: str | None = None
    """`code` of the problem document; None for 2xx, and where the HTTP library answers."""
    item_code: str | None = None
    """`code` of the first entry of `errors`; None where the problem has none."""
    method: str = "POST"
    path: str = "/publish"
    headers: tuple[tuple[str, str], ...] = JSON_HEADERS
    body: bytes | Callable[[], bytes] = b""
    raw: bytes | None = None
    """Framing: the whole request, to be written to a socket as it is, whose sending side is then shut down."""
    stores: int = 0
    """How many events the request adds."""
    comes_back: tuple[Kept, ...] = ()
    answer: dict[str, object] | None = None
    """For 2xx: members the JSON answer must have."""

    @property
    def body_bytes(self) -> bytes:
        return self.body() if callable(self.body) else self.body

    @property
    def is_accepted(self) -> bool:
        return self.statuses == (200,)


def event(
    event_id: str,
    *,
    payload: str = "{}",
    topic: str = TOPIC,
    timestamp: str = TIMESTAMP,
    source: str = SOURCE,
    **raw_members: str,
) -> bytes:
    """One event. `payload` and `raw_members` are JSON as text; a raw member replaces the field of the same name."""
    members = {
        "topic": json.dumps(topic),
        "event_id": json.dumps(event_id),
        "timestamp": json.dumps(timestamp),
        "source": json.dumps(source),
        "payload": payload,
        **{name.removeprefix("raw_"): value for name, value in raw_members.items()},
    }
    return ("{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}").encode()


def nested(levels: int) -> str:
    """An object with `levels` levels, itself included."""
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def padded_event(event_id: str, size: int) -> bytes:
    """An event of exactly `size` bytes."""
    return event(event_id, payload=json.dumps({"a": "x" * (size - len(event(event_id, payload='{"a": ""}')))}))


def padded_payload(event_id: str, size: int) -> bytes:
    return b'{"a": "%b"}' % (b"x" * (size - len(event(event_id, payload='{"a": ""}'))))


def refused(
    line: str,
    item: str,
    name: str,
    status: int,
    code: str,
    body: bytes | Callable[[], bytes],
    item_code: str | None = None,
    headers: tuple[tuple[str, str], ...] = JSON_HEADERS,
) -> BadInput:
    return BadInput(line, item, name, (status,), code, item_code, headers=headers, body=body)


def not_json(item: str, name: str, body: bytes | Callable[[], bytes]) -> BadInput:
    return refused("JSON", item, name, 400, "not_json", body)


def invalid(line: str, item: str, name: str, item_code: str, body: bytes | Callable[[], bytes]) -> BadInput:
    return refused(line, item, name, 422, "invalid_event", body, item_code)


def kept(line: str, item: str, name: str, body: bytes | Callable[[], bytes], *comes_back: Kept) -> BadInput:
    """Accepted: every event of the body is new and comes back."""
    answer = {"accepted": len(comes_back)}
    return BadInput(line, item, name, (200,), body=body, stores=len(comes_back), comes_back=comes_back, answer=answer)


def kept_payload(line: str, item: str, name: str, payload: str) -> BadInput:
    return kept(line, item, name, event(name, payload=payload), Kept(name, payload.encode()))


def _json_cases() -> list[BadInput]:
    good = event("json-good")
    return [
        not_json("empty", "empty", b""),
        not_json("space", "space", b" \r\n\t"),
        *(not_json("truncated", f"truncated-at-{cut}", good[:cut]) for cut in (1, 9, 30, len(good) - 1)),
        not_json("truncated", "truncated-array", b"[" + good),
        not_json("truncated", "truncated-after-comma", b"[" + good + b","),
        not_json("trailing garbage", "trailing-garbage", good + b" x"),
        not_json("trailing garbage", "trailing-bracket", b"[" + good + b"]]"),
        not_json("trailing garbage", "trailing-comma", b"[" + good + b",]"),
        not_json("trailing garbage", "trailing-nul", good + b"\0"),
        not_json("two documents", "two-documents", good + good),
        not_json("two documents", "two-lines", good + b"\n" + good),
        not_json("comments", "comment-block", good.replace(b"{}", b"{/* */}")),
        not_json("comments", "comment-line", b"// \n" + good),
        not_json("NaN", "nan", event("nan", payload='{"a":NaN}')),
        not_json("NaN", "nan-root", b"NaN"),
        not_json("Infinity", "infinity", event("infinity", payload='{"a":Infinity}')),
        not_json("Infinity", "minus-infinity", event("infinity", payload='{"a":-Infinity}')),
        kept_payload("JSON", "1e999", "1e999", '{"a":1e999}'),
        not_json("01", "leading-zero", event("leading-zero", payload='{"a":01}')),
        not_json("BOM", "bom", b"\xef\xbb\xbf" + good),
        not_json("UTF-16", "utf-16", good.decode().encode("utf-16")),
        not_json("UTF-16", "utf-16-le", good.decode().encode("utf-16-le")),
        not_json("invalid UTF-8", "invalid-utf-8-in-payload", good.replace(b"{}", b'{"a":"\xff"}')),
        not_json("invalid UTF-8", "invalid-utf-8-in-name", good.replace(b"json-good", b"\xff")),
        not_json("invalid UTF-8", "cut-utf-8", good.replace(b"{}", b'{"a":"\xe2\x82"}')),
        not_json("invalid UTF-8", "surrogate-in-utf-8", good.replace(b"{}", b'{"a":"\xed\xa0\x80"}')),
        not_json("overlong forms", "overlong-slash", good.replace(b"{}", b'{"a":"\xc0\xaf"}')),
        not_json("overlong forms", "overlong-nul", good.replace(b"{}", b'{"a":"\xe0\x80\x80"}')),
        not_json('lone surrogate `"\\ud800"`', "lone-surrogate-in-payload", event("x", payload='{"a":"\\ud800"}')),
        not_json('lone surrogate `"\\ud800"`', "lone-surrogate-in-name", event("x", raw_event_id='"\\ud800"')),
        not_json('lone surrogate `"\\ud800"`', "low-surrogate-first", event("x", payload='{"a":"\\udc00\\ud800"}')),
        *(
            not_json("raw control character", f"raw-{byte:02x}", good.replace(b"{}", b'{"a":"%c"}' % byte))
            for byte in (0x00, 0x09, 0x0A, 0x0D, 0x1B, 0x1F)
        ),
        not_json("raw control character", "raw-nul-in-name", good.replace(b"json-good", b"a\0b")),
        invalid("JSON", "100,000 `[`", "100000-brackets", "too_deep", b"[" * 100_000),
        invalid(
            "JSON",
            "100,000 `[`",
            "100000-brackets-in-payload",
            "too_deep",
            lambda: good[:-3] + b'{"a":' + b"[" * 100_000,
        ),
        invalid(
            "JSON", "depth 129 with a limit of 128", "depth-129", "too_deep", event("d", payload=nested(DEPTH_MAX))
        ),
        invalid(
            "JSON", "depth 129 with a limit of 128", "depth-129-extra", "too_deep", event("d", raw_x=nested(DEPTH_MAX))
        ),
        invalid("JSON", "depth 129 with a limit of 128", "depth-900", "too_deep", event("d", payload=nested(900))),
        kept_payload("JSON", "depth 129 with a limit of 128", "depth-128", nested(DEPTH_MAX - 1)),
        kept_payload("JSON", "a 4,301-digit integer", "integer-4301", '{"a":' + "7" * 4301 + "}"),
        invalid(
            "JSON", "a 4,301-digit integer", "integer-4301-as-id", "wrong_type", event("x", raw_event_id="7" * 4301)
        ),
        *_duplicate_key_cases(),
        kept_payload("JSON", "`__proto__`", "proto-in-payload", '{"__proto__":{"admin":true}}'),
        kept(
            "JSON",
            "`__proto__`",
            "proto-beside-the-fields",
            event("proto", raw___proto__="{}"),
            Kept("proto", extras=b'"__proto__":{}'),
        ),
        *(
            refused("JSON", "scalar or null at the root", f"root-{name}", 400, "wrong_root", root)
            for name, root in (("null", b"null"), ("true", b"true"), ("number", b"-1.5e3"), ("string", b'"x"'))
        ),
        invalid("JSON", "scalar or null at the root", "empty-object", "missing_field", b"{}"),
    ]


def _duplicate_key_cases() -> list[BadInput]:
    item = "duplicate keys (`event_id` twice: 422; inside the payload: kept)"
    good = event("duplicate-key")
    return [
        invalid("JSON", item, "event-id-twice", "repeated_member", good[:-1] + b',"event_id":"other"}'),
        invalid("JSON", item, "event-id-twice-equal", "repeated_member", good[:-1] + b',"event_id":"duplicate-key"}'),
        invalid("JSON", item, "event-id-twice-escaped", "repeated_member", good[:-1] + b',"event\\u005fid":"other"}'),
        invalid("JSON", item, "topic-twice-empty", "repeated_member", b'{"topic":"",' + good[1:]),
        invalid("JSON", item, "payload-twice", "repeated_member", good[:-1] + b',"payload":{}}'),
        invalid("JSON", item, "offset-twice", "repeated_member", good[:-1] + b',"offset":1,"offset":1}'),
        invalid("JSON", item, "unknown-twice", "repeated_member", good[:-1] + b',"x":1,"x":1}'),
        invalid("JSON", item, "unknown-twice-escaped", "repeated_member", good[:-1] + b',"x":1,"\\u0078":1}'),
        kept_payload("JSON", item, "twice-in-payload", '{"a":1,"a":2}'),
    ]


def _number_cases() -> list[BadInput]:
    numbers = {"2^63": str(2**63), "2^64+1": str(2**64 + 1), "1.10": "1.10", "1E400": "1E400"}
    return [
        kept_payload("Numbers in payload", item, f"number-{item}", f'{{"n":{text},"list":[{text}, -{text}]}}')
        for item, text in numbers.items()
    ]


def _batch_cases() -> list[BadInput]:
    def array(*items: bytes) -> bytes:
        return b"[" + b",".join(items) + b"]"

    mixed = array(event("mixed-1"), b"1", b'"x"', b"null", b"[]", b"{}", event("mixed-2"))
    at_limit = "one byte over the size limit and exactly at it"
    return [
        BadInput("Batch", "`[]`", "empty-array", (200,), body=b"[]", answer={"accepted": 0}),
        BadInput("Batch", "`[]`", "empty-array-with-space", (200,), body=b" [\n] ", answer={"accepted": 0}),
        invalid("Batch", "`[]`", "wrapped", "wrapped_batch", b'{"events":[' + event("wrapped") + b"]}"),
        invalid("Batch", "`[]`", "array-in-array", "not_an_object", b"[" + array(event("nested-array")) + b"]"),
        invalid("Batch", "mixed items", "mixed", "not_an_object", mixed),
        BadInput(
            "Batch",
            "mixed items",
            "mixed-partial",
            (200,),
            path="/publish?partial=true&receipts=true",
            body=mixed,
            stores=2,
            comes_back=(Kept("mixed-1"), Kept("mixed-2")),
            answer={"accepted": 2},
        ),
        refused("Batch", "1,000,000 events", "million-empty-objects", 413, "too_many_events", _million(b"{}")),
        refused("Batch", "1,000,000 events", "million-numbers", 413, "too_many_events", _million(b"1")),
        refused("Batch", "1,000,000 events", "million-events", 413, "body_too_large", _million(event("same"))),
        refused(
            "Batch", "1,000,000 events", "400000-smallest-events", 413, "too_many_events", _smallest_events(400_000)
        ),
        refused("Batch", "1,000,000 events", "50001-events", 413, "too_many_events", _events(50_001)),
        invalid("Batch", "last item bad", "last-item-bad", "missing_field", lambda: _events(999)()[:-1] + b",{}]"),
        invalid("Batch", "last item bad", "last-item-without-id", "empty", array(event("last-1"), event(""))),
        BadInput(
            "Batch",
            "same id twice",
            "same-id-twice",
            (200,),
            body=array(event("twice"), event("twice")),
            stores=1,
            comes_back=(Kept("twice"),),
            answer={"accepted": 2},
        ),
        BadInput(
            "Batch",
            "same id with another payload",
            "same-id-other-payload",
            (200,),
            body=array(event("conflict", payload='{"n":1}'), event("conflict", payload='{"n":2}')),
            stores=1,
            comes_back=(Kept("conflict", b'{"n":1}'),),
            answer={"accepted": 2, "conflicts": [1]},
        ),
        kept(
            "Batch",
            "same id in another topic",
            "same-id-other-topic",
            array(event("shared", topic="bad-inputs-1"), event("shared", topic="bad-inputs-2")),
            Kept("shared", topic="bad-inputs-1"),
            Kept("shared", topic="bad-inputs-2"),
        ),
        refused(
            "Batch",
            at_limit,
            "event-one-byte-over",
            413,
            "event_too_large",
            lambda: padded_event("over", EVENT_BYTES_MAX + 1),
            item_code="event_too_large",
        ),
        kept(
            "Batch",
            at_limit,
            "event-exactly-at",
            lambda: padded_event("at", EVENT_BYTES_MAX),
            Kept("at", padded_payload("at", EVENT_BYTES_MAX)),
        ),
        refused(
            "Batch",
            at_limit,
            "body-one-byte-over",
            413,
            "body_too_large",
            lambda: event("body-over").ljust(BODY_BYTES_MAX + 1),
        ),
        kept("Batch", at_limit, "body-exactly-at", lambda: event("body-at").ljust(BODY_BYTES_MAX), Kept("body-at")),
    ]


def _million(item: bytes) -> Callable[[], bytes]:
    return lambda: b"[" + b",".join([item] * 1_000_000) + b"]"


def _smallest_events(count: int) -> Callable[[], bytes]:
    smallest = event("a", topic="a", timestamp="20240101", source="a")
    return lambda: b"[" + b",".join([smallest] * count) + b"]"


def _events(count: int) -> Callable[[], bytes]:
    return lambda: b"[" + b",".join(event(f"many-{i}") for i in range(count)) + b"]"


def _name_cases() -> list[BadInput]:
    emoji_255 = "\N{HIBISCUS}" * 63 + "abc"
    emoji_256 = "\N{HIBISCUS}" * 64
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    dotless = ("i", "\u0131", "I", "\u0130")

    def for_each_field(item: str, name: str, item_code: str, text: str) -> list[BadInput]:
        bodies = {
            "topic": event("x", topic=text),
            "event-id": event(text),
            "source": event("x", source=text),
        }
        return [invalid("Names", item, f"{name}-{field}", item_code, body) for field, body in bodies.items()]

    def accepted(item: str, name: str, text: str) -> BadInput:
        body = event(text, topic=f"bad-inputs-{text}", source=text)
        return kept("Names", item, name, body, Kept(text, topic=f"bad-inputs-{text}", source=text))

    return [
        *for_each_field("empty", "name-empty", "empty", ""),
        *for_each_field("white space", "name-spaces", "surrounding_whitespace", "  "),
        *for_each_field("white space", "name-space-before", "surrounding_whitespace", " a"),
        *for_each_field("white space", "name-space-after", "surrounding_whitespace", "a "),
        *for_each_field("white space", "name-no-break-space-after", "surrounding_whitespace", "a\u00a0"),
        *for_each_field("white space", "name-line-separator-after", "surrounding_whitespace", "a\u2028"),
        accepted("white space", "name-space-inside", "a b\u00a0c\u2028d"),
        *for_each_field("NUL", "name-nul", "control_character", "a\0b"),
        *for_each_field("CR/LF", "name-crlf", "control_character", "a\r\nset-cookie: b"),
        *for_each_field("CR/LF", "name-c1", "control_character", "a\u0085b"),
        *for_each_field("CR/LF", "name-delete", "control_character", "a\x7fb"),
        kept(
            "Names",
            "255 and 256 bytes of emoji",
            "name-255-bytes",
            event(emoji_255, topic=emoji_255),
            Kept(emoji_255, topic=emoji_255),
        ),
        invalid("Names", "255 and 256 bytes of emoji", "topic-256-bytes", "too_long", event("x", topic=emoji_256)),
        invalid("Names", "255 and 256 bytes of emoji", "event-id-256-bytes", "too_long", event(emoji_256)),
        kept(
            "Names",
            "255 and 256 bytes of emoji",
            "source-1024-bytes",
            event("source-1024", source=emoji_256 * 4),
            Kept("source-1024", source=emoji_256 * 4),
        ),
        invalid(
            "Names",
            "255 and 256 bytes of emoji",
            "source-1025-bytes",
            "too_long",
            event("x", source="a" + emoji_256 * 4),
        ),
        kept(
            "Names",
            "NFC against NFD",
            "nfc-and-nfd",
            b"[" + event(nfc) + b"," + event(nfd) + b"]",
            Kept(nfc),
            Kept(nfd),
        ),
        kept(
            "Names",
            "Turkish dotless i",
            "dotless-i",
            b"[" + b",".join(map(event, dotless)) + b"]",
            *map(Kept, dotless),
        ),
        accepted("`../`", "name-dots", "../../etc/passwd"),
        accepted("`%2e`", "name-percent", "%2e%2e%2f%00"),
        accepted("`*`", "name-star", "*"),
        accepted("`>`", "name-greater", ">"),
        accepted("`$SYS`", "name-sys", "$SYS.REQ"),
        accepted("bidi override", "name-bidi", "abc\u202etxt.exe"),
        invalid("Names", "the id as number", "id-number", "wrong_type", event("x", raw_event_id="1")),
        kept("Names", "the id as number", "id-digit-string", event("1"), Kept("1")),
        invalid("Names", "bool", "id-bool", "wrong_type", event("x", raw_event_id="true")),
        invalid("Names", "bool", "id-null", "wrong_type", event("x", raw_event_id="null")),
        invalid("Names", "object", "id-object", "wrong_type", event("x", raw_event_id='{"$ne":null}')),
        invalid("Names", "object", "id-array", "wrong_type", event("x", raw_event_id='["x"]')),
        invalid("Names", "object", "payload-array", "not_an_object", event("x", payload="[]")),
        invalid("Names", "object", "payload-string", "not_an_object", event("x", payload='"{}"')),
        invalid("Names", "object", "payload-null", "not_an_object", event("x", payload="null")),
    ]


def _timestamp_cases() -> list[BadInput]:
    def wrong(item: str, name: str, timestamp: str, item_code: str = "not_a_timestamp") -> BadInput:
        return invalid("Timestamps", item, f"timestamp-{name}", item_code, event("x", timestamp=timestamp))

    def right(item: str, name: str, timestamp: str) -> BadInput:
        event_id = f"timestamp-{name}"
        return kept(
            "Timestamps", item, event_id, event(event_id, timestamp=timestamp), Kept(event_id, timestamp=timestamp)
        )

    number = event("x", raw_timestamp="1767225600")
    return [
        wrong("`24:00:00`", "hour-24", "2024-01-01T24:00:00Z"),
        wrong("`24:00:00`", "hour-24-basic", "20240101T240000"),
        right("`24:00:00`", "leap-second", "2016-12-31T23:59:60Z"),
        right("`24:00:00`", "date-only", "2024-01-01"),
        wrong("Feb 30", "feb-30", "2024-02-30T00:00:00Z"),
        wrong("Feb 30", "feb-29-of-a-common-year", "2023-02-29T00:00:00Z"),
        wrong("year 0000 and 10000", "year-0000", "0000-01-01T00:00:00Z"),
        wrong("year 0000 and 10000", "year-10000", "10000-01-01T00:00:00Z"),
        wrong("year 0000 and 10000", "year-plus", "+2024-01-01T00:00:00Z"),
        right("offsets that overflow UTC", "before-year-1", "0001-01-01T00:00:00+23:59"),
        right("offsets that overflow UTC", "after-year-9999", "9999-12-31T23:59:59-23:59"),
        wrong("offsets that overflow UTC", "offset-24", "2024-01-01T00:00:00+24:00"),
        wrong("U+2212 minus", "minus-sign", "2024-01-01T00:00:00\N{MINUS SIGN}05:00"),
        wrong('`"1767225600"`', "epoch-text", "1767225600"),
        wrong('`"1767225600"`', "empty", ""),
        wrong('`"1767225600"`', "newline-between", "2024-01-01\n00:00:00", "control_character"),
        invalid("Timestamps", "a number", "timestamp-number", "wrong_type", number),
        right("nanoseconds (kept)", "nanoseconds", "2024-01-01T00:00:00.123456789Z"),
        right("nanoseconds (kept)", "lower-case-z", "2024-01-01T00:00:00.5z"),
    ]


def _query_cases() -> list[BadInput]:
    def wrong(item: str, name: str, item_code: str, path: str) -> BadInput:
        code = "invalid_parameter"
        return BadInput("Query", item, f"query-{name}", (422,), code, item_code, "GET", path, headers=())

    def empty(item: str, name: str, path: str) -> BadInput:
        return BadInput("Query", item, f"query-{name}", (200,), method="GET", path=path, headers=())

    return [
        wrong("offset 2^63", "after-2-63", "not_a_cursor", f"/events?after={2**63}"),
        wrong("offset 2^63", "before-2-63", "not_a_cursor", f"/events?order=desc&before={2**63}"),
        empty("offset 2^63", "after-2-63-minus-1", f"/events?after={2**63 - 1}"),
        wrong("negative", "after-negative", "not_a_cursor", "/events?after=-1"),
        wrong("tampered", "after-tampered", "not_a_cursor", "/events?after=12abc"),
        wrong("tampered", "after-space", "not_a_cursor", "/events?after=%2012"),
        wrong("tampered", "after-arabic-digit", "not_a_cursor", "/events?after=%D9%A1"),
        wrong("tampered", "after-float", "not_a_cursor", "/events?after=1.0"),
        wrong("tampered", "after-underscore", "not_a_cursor", "/events?after=1_0"),
        wrong("limit 0", "limit-0", "out_of_range", "/events?limit=0"),
        wrong("-1", "limit-minus-1", "out_of_range", "/events?limit=-1"),
        wrong("10^9", "limit-10-9", "out_of_range", f"/events?limit={10**9}"),
        wrong("10^9", "limit-empty", "not_a_number", "/events?limit="),
        wrong("repeated parameters", "limit-twice", "repeated_parameter", "/events?limit=1&limit=2"),
        wrong("repeated parameters", "after-twice", "repeated_parameter", "/events?after=1&after=1"),
        empty("repeated parameters", "topic-twice", "/events?topic=query-none-1&topic=query-none-2"),
        wrong("`%00`", "after-nul", "not_a_cursor", "/events?after=%00"),
        wrong("`%00`", "since-nul", "not_a_timestamp", "/events?since=%00"),
        wrong("`%00`", "topic-nul", "control_character", "/events?topic=%00"),
        wrong("`%00`", "event-nul", "control_character", "/event?topic=%00&event_id=x"),
    ]


def _encoding_cases() -> list[BadInput]:
    good = event("encoded")
    packed = gzip.compress(good, mtime=0)
    wrong_crc = packed[:-8] + b"\0\0\0\0" + packed[-4:]

    def encoded(item: str, name: str, encoding: str, body: bytes | Callable[[], bytes]) -> BadInput:
        headers = (*JSON_HEADERS, ("content-encoding", encoding))
        return refused("Encoding", item, f"encoding-{name}", 415, "unsupported_encoding", body, headers=headers)

    identity = (*JSON_HEADERS, ("content-encoding", "identity"))
    return [
        encoded("unknown", "unknown", "x-unknown", good),
        encoded("unknown", "empty-item", "gzip,", packed),
        BadInput(
            "Encoding",
            "unknown",
            "encoding-identity",
            (200,),
            headers=identity,
            body=event("encoding-identity"),
            stores=1,
            comes_back=(Kept("encoding-identity"),),
            answer={"accepted": 1},
        ),
        encoded("doubled", "doubled", "gzip, gzip", gzip.compress(packed, mtime=0)),
        encoded("doubled", "identity-and-gzip", "identity, gzip", packed),
        encoded("truncated gzip", "truncated", "gzip", packed[:-12]),
        encoded("wrong CRC", "wrong-crc", "gzip", wrong_crc),
        encoded("several members", "several-members", "gzip", packed + packed),
        encoded("gzip header on plain bytes", "plain-bytes", "gzip", good),
        encoded("a bomb in gzip and zstd", "gzip-bomb", "gzip", _gzip_bomb),
        encoded("a bomb in gzip and zstd", "zstd-bomb", "zstd", _zstd_bomb),
        refused("Encoding", "gzip header on plain bytes", "encoding-undeclared", 400, "not_json", packed),
    ]


def _bomb() -> bytes:
    return event("bomb").ljust(2 * BODY_BYTES_MAX)


@cache
def _gzip_bomb() -> bytes:
    return gzip.compress(_bomb(), mtime=0)


@cache
def _zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(_bomb())


def _framing_cases() -> list[BadInput]:
    body = event("framing")
    head = b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    size = len(body)
    chunk = b"%x\r\n%b\r\n" % (size, body)
    lengths = "Content-Length too long or too short"

    def framed(item: str, name: str, raw: bytes) -> BadInput:
        return BadInput("Framing", item, f"framing-{name}", (400, CLOSED), raw=raw)

    def with_length(length: object) -> bytes:
        return head + f"Content-Length: {length}\r\n\r\n".encode() + body

    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    both = head + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % size
    return [
        framed(lengths, "length-too-long", with_length(size + 10)),
        framed(lengths, "length-too-short", with_length(size - 10)),
        framed(lengths, "two-lengths", head + b"Content-Length: %d\r\n" % (size - 1) + with_length(size)[len(head) :]),
        framed("negative", "length-negative", with_length(-size)),
        framed("negative", "length-plus", with_length(f"+{size}")),
        framed("negative", "length-exponent", with_length("1e2")),
        framed("with chunked", "length-with-chunked", both + chunk + b"0\r\n\r\n"),
        framed("wrong chunk sizes", "chunk-too-long", chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (size + 5, body)),
        framed("wrong chunk sizes", "chunk-too-short", chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (size - 5, body)),
        framed("wrong chunk sizes", "chunk-not-hex", chunked + b"zz\r\n" + body + b"\r\n0\r\n\r\n"),
        framed("wrong chunk sizes", "chunk-huge", chunked + b"f" * 18 + b"\r\n" + body),
        framed("disconnect in the body", "disconnect", with_length(size)[: -size // 2]),
        framed("disconnect in the body", "disconnect-in-chunks", chunked + chunk),
    ]


def _output_cases() -> list[BadInput]:
    def text(item: str, name: str, value: str) -> BadInput:
        payload = json.dumps({value: value})
        topic = f"bad-inputs-{value}"
        body = event(value, topic=topic, source=value, payload=payload)
        return kept("Output", item, f"output-{name}", body, Kept(value, payload.encode(), topic, source=value))

    script = "</textarea><script>alert(1)</script>"
    every_field = "`<script>` in every field and inside a search hit"
    return [
        text(every_field, "script", script),
        kept(
            "Output",
            every_field,
            "output-script-as-member",
            event("script-member", raw_script=json.dumps(script)),
            Kept("script-member", extras=b'"script":' + json.dumps(script).encode()),
        ),
        kept_payload("Output", "ANSI escapes in the terminal", "output-ansi", '{"a":"\\u001b[2J\\u001b]0;x\\u0007"}'),
        invalid("Output", "ANSI escapes in the terminal", "output-ansi-name", "control_character", event("\x1b[2J")),
        kept_payload("Output", "CR/LF into SSE", "output-crlf", '{"a":"x\\r\\n\\r\\ndata: y"}'),
        kept_payload("Output", "CR/LF into SSE", "output-raw-line-ends", '{\r\n"a":\n1}'),
        text("`=HYPERLINK()` into CSV", "formula", '=HYPERLINK("http://example.test/","x")'),
        text("`javascript:` links", "javascript-link", "javascript:alert(1)"),
    ]


CASES: tuple[BadInput, ...] = (
    *_json_cases(),
    *_number_cases(),
    *_batch_cases(),
    *_name_cases(),
    *_timestamp_cases(),
    *_query_cases(),
    *_encoding_cases(),
    *_framing_cases(),
    *_output_cases(),
)


def listed_items() -> list[tuple[str, str]]:
    """The (line, item) pairs of bad_inputs_list.md, in order."""
    text = Path(__file__).with_name("bad_inputs_list.md").read_text(encoding="utf-8")
    items = []
    for line in re.findall(r"^- (.+)\.$", text, re.MULTILINE):
        title, rest = re.findall(r"^\*\*(.+?)\*\*[^:]*: (.+)$", line)[0]
        words = re.findall(r"(?:\([^)]*\)|`[^`]*`|\d,\d|[^,;(`])+", rest)
        items += [(title, word.strip()) for word in words]
    return items
