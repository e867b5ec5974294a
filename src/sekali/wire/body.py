"""A request body before its events are looked at: size, UTF-8, root, and its split into items."""

from __future__ import annotations

import codecs
from typing import Final

import msgspec

from sekali.errors import BodyTooLarge, InvalidEvent, NotJson, TooManyEvents, WrongRoot
from sekali.json_value import TOKEN
from sekali.wire.rules import DecodeLimits, too_deep

_ITEM: Final = msgspec.json.Decoder(msgspec.Raw)
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])

_ITEMS_BUILT_PER_EVENT: Final = 10
"""An array is split before its items are counted when it can hold at most this many times the limit."""
_UTF8_CHUNK_BYTES: Final = 1 << 16
_WHITE_SPACE: Final = b" \t\r\n"


def check_root(body: bytes, limits: DecodeLimits) -> bytes:
    """The first byte of the body's JSON value, `{` or `[`, once size and UTF-8 were found good.

    Raises BodyTooLarge, NotJson, WrongRoot. The rest of the body may still be no JSON.
    """
    if len(body) > limits.body_bytes_max:
        raise BodyTooLarge(f"A request may have {limits.body_bytes_max} bytes; this one has {len(body)}.")
    _check_utf8(body)
    start = body[:64].lstrip(_WHITE_SPACE) or body.lstrip(_WHITE_SPACE)
    if not start:
        raise NotJson("The body is empty. Send an event, or an array of events.")
    root = start[:1]
    if root in b"{[":
        return root
    try:
        _ITEM.decode(body)
    except msgspec.DecodeError as error:
        raise not_json(error) from None
    raise WrongRoot("Send an event as a JSON object, or an array of events.")


def _check_utf8(body: bytes) -> None:
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    for start in range(0, len(body), _UTF8_CHUNK_BYTES):
        held_back = len(decoder.getstate()[0])
        chunk = view[start : start + _UTF8_CHUNK_BYTES]
        try:
            decoder.decode(chunk, final=start + _UTF8_CHUNK_BYTES >= len(body))
        except UnicodeDecodeError as error:
            raise NotJson(f"The body is not UTF-8 (byte {start - held_back + error.start}).") from None


def not_json(error: msgspec.DecodeError) -> NotJson:
    reason = str(error).removeprefix("JSON is malformed: ")
    if reason == "Input data was truncated":
        reason = "it ends too early, or holds half of a surrogate pair"
    return NotJson(f"The body is not JSON: {reason}.")


def split_items(body: bytes, root: bytes, limits: DecodeLimits) -> list[bytes]:
    """The bytes of each item of the array, or of the one object; their JSON grammar was checked then.

    Raises NotJson, TooManyEvents, and InvalidEvent for nesting that the parser does not bear.
    """
    if root == b"[" and body.count(b",") >= _ITEMS_BUILT_PER_EVENT * limits.batch_events_max:
        refuse_too_many_items(body, limits)
    try:
        items = [bytes(item) for item in (_ITEMS.decode(body) if root == b"[" else [_ITEM.decode(body)])]
    except RecursionError:
        violation = too_deep(_pointer_of_deep_item(body, root, limits), limits)
        raise InvalidEvent(violation.detail, violations=[violation]) from None
    except msgspec.DecodeError as error:
        raise not_json(error) from None
    if len(items) > limits.batch_events_max:
        raise too_many(limits)
    return items


def refuse_too_many_items(body: bytes, limits: DecodeLimits) -> None:
    """Raises TooManyEvents for an array of too many items, counting up to the limit without building anything."""
    depth = commas = 0
    for match in TOKEN.finditer(body):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        elif token == b"," and depth == 1:
            commas += 1
            if commas >= limits.batch_events_max:
                raise too_many(limits)


def too_many(limits: DecodeLimits) -> TooManyEvents:
    return TooManyEvents(f"A request may have {limits.batch_events_max} events. Send the rest in another one.")


def _pointer_of_deep_item(body: bytes, root: bytes, limits: DecodeLimits) -> str:
    """JSON Pointer of the first item nested too deep, in a body that nests deeper than the parser bears."""
    levels_max = limits.depth_max + (root == b"[")
    depth = index = 0
    for match in TOKEN.finditer(body):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            if depth > levels_max:
                break
        elif token in (b"}", b"]"):
            depth -= 1
        elif token == b"," and depth == 1:
            index += 1
    return f"/{index}" if root == b"[" else ""
