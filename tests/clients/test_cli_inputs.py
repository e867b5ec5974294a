"""What `sekali publish` makes of a file: formats, lines, ids, times, and what it refuses."""

from __future__ import annotations

import io
import json
import random
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from sekali.cli import inputs
from sekali.cli.inputs import BadItem, EventInput, InputFormat, InputRefusedError, Item, TextLabels

LABELS = TextLabels("os.test", "host:/var/log/test.log")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Trickle(io.RawIOBase):
    """Gives a text in pieces of the sizes asked for, as a pipe may."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content, self._sizes = content, sizes

    def read(self, size: int = -1) -> bytes:
        wanted = self._sizes.pop() if self._sizes else size
        piece, self._content = self._content[:wanted], self._content[wanted:]
        return piece


def read(content: bytes, form: InputFormat = InputFormat.AUTO, labels: TextLabels | None = None) -> list[Any]:
    source = EventInput(io.BytesIO(content), form, labels, clock=lambda: NOW)
    return [item for chunk in source.chunks() for item in chunk]


def text_events(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(item.encoded) for item in read(content, labels=LABELS)]


def unescaped(payload: dict[str, Any]) -> bytes:
    """The reading that the module's docstring promises."""
    if not payload.get("escaped"):
        return str(payload["message"]).encode()
    pattern = rb"\\\\|\\x([0-9a-f]{2})"
    return re.sub(pattern, lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", payload["message"].encode())


def test_ndjson_lines_are_passed_on_byte_for_byte() -> None:
    lines = [b'{"topic":"a", "payload":{"x":1.10}}', b'{"payload":{"big":123456789012345678901234567890}}']
    assert read(b"\n".join(lines)) == [Item(1, lines[0]), Item(2, lines[1])]


def test_blank_lines_are_skipped_and_still_counted_as_lines() -> None:
    source = EventInput(io.BytesIO(b'\n  \r\n{"a":1}\r\n\n{"a":2}'))
    items = [item for chunk in source.chunks() for item in chunk]
    assert items == [Item(3, b'{"a":1}'), Item(5, b'{"a":2}')]
    assert source.empty_lines == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":1}, {"b":2}', "not JSON"),
        (b'{"a":1', "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8 (byte 6)"),
        (b"[" * 100_000, "nested too deep"),
        (b"hello", "not JSON"),
    ],
)
def test_a_bad_ndjson_line_is_told_with_its_number_and_its_neighbours_are_kept(line: bytes, reason: str) -> None:
    first, bad, last = read(b'{"a":1}\n' + line + b'\n{"a":3}\n', InputFormat.NDJSON)
    assert (first, last) == (Item(1, b'{"a":1}'), Item(3, b'{"a":3}'))
    assert isinstance(bad, BadItem)
    assert bad.place == 2
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b'[{"a":1}]', InputFormat.JSON),
        (b'\xef\xbb\xbf  \n [\n{"a":1}\n]\n', InputFormat.JSON),
        (b'{\n "a": 1\n}\n', InputFormat.JSON),
        (b'{"a":1}', InputFormat.NDJSON),
        (b'{"a":1}\n{"a":2}\n', InputFormat.NDJSON),
        (b'{"a":}\n{"a":2}\n', InputFormat.NDJSON),
        (b"", InputFormat.NDJSON),
        (b" \n\n", InputFormat.NDJSON),
    ],
)
def test_the_format_is_told_from_the_beginning(content: bytes, form: InputFormat) -> None:
    source = EventInput(io.BytesIO(content))
    items = [item for chunk in source.chunks() for item in chunk]
    assert source.form is form
    assert [json.loads(item.encoded) for item in items if isinstance(item, Item)][-1:] in ([{"a": 1}], [{"a": 2}], [])


def test_elements_of_a_json_array_are_counted_from_one_and_kept_as_they_are() -> None:
    assert read(b'[ {"a": 1.50},\n 7 , "x"]') == [Item(1, b'{"a": 1.50}'), Item(2, b"7"), Item(3, b'"x"')]
    assert read(b"[]") == []


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'[{"a":1}', "not JSON"),
        (b'[{"a":"\xff"}]', "not UTF-8"),
        (b"hello world\n", "--topic"),
        (b"\x1f\x8b\x08\x00rest", "zcat"),
        (b"\xfd7zXZ\x00rest", "xzcat"),
        (b"\xff\xfeh\x00i\x00", "iconv"),
    ],
)
def test_an_input_that_cannot_be_events_is_refused_with_what_to_do(content: bytes, word: str) -> None:
    with pytest.raises(InputRefusedError, match=word):
        read(content)


def test_a_json_document_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "JSON_BYTES_MAX", 1000)
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 100)
    with pytest.raises(InputRefusedError, match="NDJSON"):
        read(b"[" + b"1," * 1000 + b"1]")


def test_a_line_of_text_becomes_an_event() -> None:
    first, second = text_events(b"2025-06-24 14:36:25 +02:00 status installed\r\n\nno time here")
    assert first["topic"] == "os.test"
    assert first["source"] == LABELS.source
    assert first["payload"] == {"line": 1, "message": "2025-06-24 14:36:25 +02:00 status installed"}
    assert first["timestamp"] == "2025-06-24T14:36:25+02:00"
    assert second["payload"] == {"line": 3, "message": "no time here"}
    assert second["timestamp"] == NOW.isoformat()


def test_the_id_of_a_line_comes_from_source_number_and_content_only() -> None:
    # Made with `printf 'host:/a.log\0007\000hello' | b2sum -l 128`. What a stored id means must never change.
    assert inputs.line_event_id("host:/a.log", 7, b"hello") == "line-7-47c93876fdbb11ac9a926a72bac4126b"
    ids = {
        inputs.line_event_id(source, number, content)
        for source in ("host:/a.log", "host:/b.log")
        for number in (1, 2)
        for content in (b"hello", b"hallo")
    }
    assert len(ids) == 8
    before, after = text_events(b"one\ntwo\n"), text_events(b"one\ntwo\nthree\n")
    assert [event["event_id"] for event in before] == [event["event_id"] for event in after[:2]]


def test_lines_that_are_not_utf8_are_escaped_so_that_their_bytes_can_be_had_back(rng: random.Random) -> None:
    contents = [b"caf\xe9", b"a\\xe9 is text, \xff is not", b"\\\\\xc3", b"plain \\x41"]
    contents += [bytes(rng.choice(b"\\x0af\xff\xc3\xa9 ") for _ in range(12)) for _ in range(200)]
    events = text_events(b"\n".join(contents))
    assert [unescaped(event["payload"]) for event in events] == contents
    assert events[0]["payload"] == {"line": 1, "message": "caf\\xe9", "escaped": True}
    assert "escaped" not in events[3]["payload"]


def test_control_characters_of_a_line_survive_as_json_escapes() -> None:
    (item,) = read(b"\x1b[31mred\x00\x07", labels=LABELS)
    assert b"\x1b" not in item.encoded
    assert json.loads(item.encoded)["payload"]["message"] == "\x1b[31mred\x00\x07"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2025-06-24T14:36:25Z start", "2025-06-24T14:36:25+00:00"),
        ("[2025-06-24T14:36:25.123456789+0530] x", "2025-06-24T14:36:25.123456+05:30"),
        ("2025-06-24 14:36:25,250 UTC [12] LOG: x", "2025-06-24T14:36:25.250000+00:00"),
        ("2025-06-24 14:36z", "2025-06-24T14:36:00+00:00"),
        ("2025-13-24 14:36:25 month 13", None),
        ("at 2025-06-24 14:36:25", None),
        ("2025-06-24", None),
    ],
)
def test_the_time_a_line_begins_with(line: str, expected: str | None) -> None:
    assert inputs.leading_time(line.encode()) == expected


def test_a_time_without_offset_is_local_time() -> None:
    found = inputs.leading_time(b"2025-06-24 14:36:25 status installed")
    assert found == datetime(2025, 6, 24, 14, 36, 25).astimezone().isoformat()


def test_a_line_that_is_too_long_is_told_and_its_neighbours_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 64)
    items = read(b"one\n" + b"x" * 1001 + b"\n" + b"y" * 1000 + b"\n" + b"z" * 5000, labels=LABELS)
    assert [type(item) for item in items] == [Item, BadItem, Item, BadItem]
    assert [item.place for item in items] == [1, 2, 3, 4]


def test_pieces_of_any_size_give_the_same_items(rng: random.Random) -> None:
    content = b"\xef\xbb\xbf\n" + b"\n".join(b'{"n":%d,"s":"%s"}' % (n, b"x" * rng.randrange(60)) for n in range(300))
    expected = read(content)
    assert len(expected) == 300
    for _ in range(20):
        sizes = [rng.randrange(1, 400) for _ in range(2000)]
        source = EventInput(Trickle(content, sizes))
        assert [item for chunk in source.chunks() for item in chunk] == expected
        assert source.bytes_read == len(content)
