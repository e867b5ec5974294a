"""A request body before its events are looked at: size, UTF-8, root, and its split into items."""

from __future__ import annotations

import codecs
import re
from itertools import accumulate
from typing import Final

import msgspec

from sekali.errors import BodyTooLarge, InvalidEvent, NotJson, TooManyEvents, WrongRoot
from sekali.wire.rules import BRACKETS_ALIKE, STRING, DecodeLimits, too_deep

_ITEM: Final = msgspec.json.Decoder(msgspec.Raw)
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])

_ITEMS_BUILT_PER_EVENT: Final = 10
"""An array is split before its items are counted when it can hold at most this many times the limit."""
_UTF8_CHUNK_BYTES: Final = 1 << 16
_WHITE_SPACE: Final = b" \t\r\n"
_PIECE: Final = re.compile(rb'(?:[^"]{1,256}+|%b){1,256}+' % STRING.pattern, re.DOTALL)
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
_REMEMBERED_BRACKETS_MAX: Final = 6


def check_root(body: bytes, limits: DecodeLimits) -> bytes:
    """The first byte of the body's JSON value, `{` or `[`, once size and UTF-8 were found good.

    Raises BodyTooLarge, NotJson, WrongRoot. The rest of the body may still be no JSON.
    """
    if len(body) > limits.body_bytes_max:
        raise BodyTooLarge(f"A request may have {limits.body_bytes_max} bytes; this one has {len(body)}.")
    _check_utf8(body)
    start = body[:64].lstrip(_WHITE_SPACE) or body.lstrip(_WHITE_SPACE)
    if not start:
        raise NotJson("The body is empty. Send a JSON object, or an array of objects.")
    root = start[:1]
    if root in b"{[":
        return root
    try:
        _ITEM.decode(body)
    except msgspec.DecodeError as error:
        raise not_json(error) from None
    raise WrongRoot("Send a JSON object, or an array of objects.")


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

    Raises NotJson, TooManyEvents, and InvalidEvent for nesting that the parser does not bear: which item it is in is
    not known then.
    """
    if root == b"[" and body.count(b",") >= _ITEMS_BUILT_PER_EVENT * limits.batch_events_max:
        refuse_too_many_items(body, limits)
    try:
        items = [bytes(item) for item in (_ITEMS.decode(body) if root == b"[" else [_ITEM.decode(body)])]
    except RecursionError:
        violation = too_deep("", limits)
        raise InvalidEvent(violation.detail, violations=[violation]) from None
    except msgspec.DecodeError as error:
        raise not_json(error) from None
    if len(items) > limits.batch_events_max:
        raise too_many(limits)
    return items


def refuse_too_many_items(body: bytes, limits: DecodeLimits) -> None:
    """Raises TooManyEvents for an array of too many items, counting up to the limit without building anything.

    Goes through the body in pieces that cut no string: without strings, what lies between two commas says by how many
    levels the second is deeper, and commas at level 1 part items.
    """
    depth = commas = 0
    for piece in _PIECE.finditer(body):
        structure = STRING.sub(b"", piece[0]).translate(BRACKETS_ALIKE, _NOT_STRUCTURE)
        depths = list(accumulate(map(_LEVELS_OPENED.__getitem__, structure.split(b",")), initial=depth))
        depth = depths[-1]
        commas += depths[1:-1].count(1)
        if commas >= limits.batch_events_max:
            raise too_many(limits)


class _LevelsOpened(dict[bytes, int]):
    """How many more brackets a run of them opens than it closes. Short runs, which come often, are remembered."""

    def __missing__(self, brackets: bytes) -> int:
        levels = 2 * brackets.count(b"[") - len(brackets)
        if len(brackets) <= _REMEMBERED_BRACKETS_MAX:
            self[brackets] = levels
        return levels


_LEVELS_OPENED: Final = _LevelsOpened()


def too_many(limits: DecodeLimits) -> TooManyEvents:
    return TooManyEvents(f"A request may have {limits.batch_events_max} items. Send the rest in another one.")
