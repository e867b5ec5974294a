"""Events out of a file or pipe: NDJSON, JSON, or plain text lines. Bounded memory, except for a JSON document.

**Text lines.** Every line that is not empty becomes an event of the topic asked for:

- `event_id`: `line-<n>-<digest>`; n is the line's number from 1, the digest 32 hexadecimal digits: BLAKE2b-128 of the
  source, NUL, n in decimal, NUL, and the line's bytes. The same line at the same place of the same source is therefore
  the same event: sending a file again, or one that has grown, stores only what is new.
- `payload`: `{"line": n, "message": text}`, the text without its line end (LF or CR LF).
- A line that is not UTF-8 has `"escaped": true` as well. Then in its text each backslash is doubled and each byte that
  is no UTF-8 is written `\\xNN`; reading `\\\\` as a backslash and `\\xNN` as that byte gives back the line's bytes.
- The last line may lack its line end. In a file that is still written to it may be half a line: sent so, and
  again when it is whole, it is two events. `complete_lines` leaves it out.
- `timestamp`: the ISO 8601 time the line begins with (in `[]` or not; local time when it names no offset), otherwise
  the time at which it is read. It takes no part in the comparison of a resend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

LINE_BYTES_MAX: Final = 32 * 1024 * 1024
JSON_BYTES_MAX: Final = 512 * 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024

_LEADING_TIME: Final = re.compile(
    rb"\[?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)(?: ?((?:Z|z|UTC|GMT)\b|[+-]\d\d:?\d\d(?!\d)))?"
)
_COMPRESSED: Final = {
    b"\x1f\x8b": ("gzip", "zcat"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat"),
    b"\xfd7zXZ\x00": ("xz", "xzcat"),
    b"BZh": ("bzip2", "bzcat"),
}
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


class InputFormat(StrEnum):
    AUTO = "auto"
    NDJSON = "ndjson"
    JSON = "json"
    TEXT = "text"


class InputRefusedError(Exception):
    """The input as a whole cannot be read as events; the message says why and what to do."""


class ByteReader(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Item:
    """One event, as JSON. `place`: its line, or its position in the JSON array, from 1."""

    place: int
    encoded: bytes


@dataclass(frozen=True, slots=True)
class BadItem:
    """A line or array element that cannot be an event, and why."""

    place: int
    reason: str


@dataclass(frozen=True, slots=True)
class TextLabels:
    """What all events made of text lines share."""

    topic: str
    source: str


class EventInput:
    """Reads one input. `chunks()` may be walked once; the counters tell how far it came.

    `form`: the format, known once the first chunk has been asked for.
    """

    def __init__(
        self,
        stream: ByteReader,
        form: InputFormat = InputFormat.AUTO,
        labels: TextLabels | None = None,
        *,
        complete_lines: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`labels` are required for text; auto means text when they are given. `complete_lines`: of text and NDJSON, a
        last line without its line end is left out. `clock`: the time, with its zone."""
        self.form = form
        self.bytes_read = 0
        self.empty_lines = 0
        self.open_line: int | None = None
        """The number of the last line if it had no line end, once the end was reached."""
        self._complete_lines = complete_lines
        self._stream = stream
        self._labels = labels
        self._clock = clock

    @property
    def unit(self) -> str:
        return "item" if self.form is InputFormat.JSON else "line"

    def chunks(self) -> Iterator[list[Item | BadItem]]:
        """The events in order, in runs, each as soon as it has arrived. Raises InputRefusedError, OSError."""
        head = self._read_head()
        if self.form is InputFormat.AUTO:
            self.form = self._detect(head)
        head = head.removeprefix(_UTF8_BOM)
        if self.form is InputFormat.JSON:
            yield self._json_items(head)
            return
        parse = self._text_item if self.form is InputFormat.TEXT else self._ndjson_item
        for lines in self._lines(head):
            items = [parse(place, line) for place, line in lines]
            yield [item for item in items if item is not None]

    def _read(self) -> bytes:
        chunk = self._stream.read(CHUNK_BYTES) or b""
        self.bytes_read += len(chunk)
        return chunk

    def _read_head(self) -> bytes:
        """The beginning, up to the end of its first line that is not blank (or as much as may be looked at)."""
        head = b""
        while len(head) < CHUNK_BYTES and b"\n" not in head.lstrip():
            chunk = self._read()
            if not chunk:
                break
            head += chunk
        return head

    def _detect(self, head: bytes) -> InputFormat:
        for magic, (name, command) in _COMPRESSED.items():
            if head.startswith(magic):
                raise InputRefusedError(f"the input is compressed ({name}): {command} FILE | sekali publish -")
        if head.startswith(_UTF16_BOMS):
            raise InputRefusedError("the input is UTF-16: iconv -f UTF-16 -t UTF-8 FILE | sekali publish -")
        if self._labels is not None:
            return InputFormat.TEXT
        start = head.removeprefix(_UTF8_BOM).lstrip()
        first_line = start.partition(b"\n")[0].rstrip()
        if not start:
            return InputFormat.NDJSON
        if start.startswith(b"["):
            return InputFormat.JSON
        if start.startswith(b"{"):
            # A document over several lines does not close its brace on the first.
            return InputFormat.NDJSON if first_line.endswith(b"}") or len(head) >= CHUNK_BYTES else InputFormat.JSON
        raise InputRefusedError("the input is neither JSON nor NDJSON; to send it as lines of text: --topic NAME")

    def _lines(self, head: bytes) -> Iterator[list[tuple[int, bytes | None]]]:
        """Runs of (number, line without LF); None for a line longer than LINE_BYTES_MAX, which is dropped unread."""
        number = 0
        parts: list[bytes] = []
        held = 0
        chunk = head or self._read()
        while chunk:
            run: list[tuple[int, bytes | None]] = []
            first, *others = chunk.split(b"\n")
            held += len(first)
            parts.append(first)
            if held > LINE_BYTES_MAX:
                parts.clear()
            for following in others:
                number += 1
                run.append((number, None if held > LINE_BYTES_MAX else b"".join(parts)))
                parts, held = [following], len(following)
            if run:
                yield run
            chunk = self._read()
        if held:
            self.open_line = number + 1
        if held and not self._complete_lines:
            yield [(number + 1, None if held > LINE_BYTES_MAX else b"".join(parts))]

    def _text_item(self, place: int, line: bytes | None) -> Item | BadItem | None:
        assert self._labels is not None
        if line is None:
            return BadItem(place, f"longer than {LINE_BYTES_MAX:,} bytes")
        content = line.removesuffix(b"\r")
        if not content:
            self.empty_lines += 1
            return None
        payload: dict[str, object]
        try:
            payload = {"line": place, "message": content.decode()}
        except UnicodeDecodeError:
            message = content.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
            payload = {"line": place, "message": message, "escaped": True}
        event = {
            "topic": self._labels.topic,
            "event_id": line_event_id(self._labels.source, place, content),
            "timestamp": leading_time(content) or self._clock().isoformat(),
            "source": self._labels.source,
            "payload": payload,
        }
        return Item(place, msgspec.json.encode(event))

    def _ndjson_item(self, place: int, line: bytes | None) -> Item | BadItem | None:
        if line is None:
            return BadItem(place, f"longer than {LINE_BYTES_MAX:,} bytes")
        content = line.strip()
        if not content:
            self.empty_lines += 1
            return None
        # A line that is not one whole JSON value would upset its neighbours in the request's array.
        fault = _json_fault(content)
        return Item(place, content) if fault is None else BadItem(place, fault)

    def _json_items(self, head: bytes) -> list[Item | BadItem]:
        parts, size = [head], len(head)
        while chunk := self._read():
            size += len(chunk)
            if size > JSON_BYTES_MAX:
                raise InputRefusedError(
                    f"a JSON document of over {JSON_BYTES_MAX:,} bytes: send NDJSON, a line an event"
                )
            parts.append(chunk)
        document = b"".join(parts).strip()
        if not document:
            return []
        fault = _json_fault(document)
        if fault is not None:
            raise InputRefusedError(f"the input is {fault}")
        if document.startswith(b"["):
            elements = msgspec.json.decode(document, type=list[msgspec.Raw])
            return [Item(place, bytes(element)) for place, element in enumerate(elements, 1)]
        return [Item(1, document)]


def line_event_id(source: str, number: int, content: bytes) -> str:
    """The id of a text line, as the module's docstring says."""
    digest = blake2b(b"%b\0%d\0%b" % (source.encode(), number, content), digest_size=16)
    return f"line-{number}-{digest.hexdigest()}"


def leading_time(content: bytes) -> str | None:
    """The ISO 8601 time a line begins with, with its offset from UTC; None when there is none."""
    found = _LEADING_TIME.match(content)
    if found is None:
        return None
    try:
        zone = "" if found[2] is None else "Z" if found[2].isalpha() else found[2].decode()
        moment = datetime.fromisoformat(found[1].decode() + zone)
        return (moment.astimezone() if moment.tzinfo is None else moment).isoformat()
    except (ValueError, OverflowError, OSError):
        return None  # month 13, or a year the platform's time zone rules do not reach


def _json_fault(content: bytes) -> str | None:
    """Why `content` is not one JSON value in UTF-8, or None when it is one."""
    try:
        content.decode()
        msgspec.json.decode(content, type=msgspec.Raw)
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start})"
    except msgspec.DecodeError as error:
        return f"not JSON ({error})"
    except RecursionError:
        return "not JSON (nested too deep)"
    return None
