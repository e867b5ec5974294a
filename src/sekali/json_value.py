"""JSON texts as values: their tokens, and whether two of them say the same.

Everything here runs in time linear in the text, whatever the text, and without recursion. The texts must be valid
JSON in UTF-8: they were checked when they came in.
"""

from __future__ import annotations

import json
import re
from array import array
from itertools import chain
from operator import itemgetter
from typing import Final

TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
"""One JSON token: a string with its quotes, a structural character, or a number or literal."""

_QUOTE: Final = ord('"')
_CLOSE_OBJECT: Final = ord("}")


def same_json_value(one: bytes, other: bytes) -> bool:
    """True when two JSON texts are equal as values.

    Members of an object are unordered, but the values of one repeated name keep their order. Items of an array are
    ordered. Strings compare after unescaping. Numbers compare by their text: `1.0` is not `1`, so no precision is
    ever guessed.
    """
    if one == other:
        return True
    numbers: dict[bytes, int] = {}
    return _number_of_value(one, numbers) == _number_of_value(other, numbers)


def _number_of_value(text: bytes, numbers: dict[bytes, int]) -> int:
    """A number that equal values share. `numbers` holds that of every value met so far.

    A scalar's key is its text, a container's key is made of the numbers of what it holds: so equal values have equal
    keys, and all keys together grow with the text alone. Keys are bytes because only their hash is salted.
    """
    waiting: list[list[int]] = []
    held: list[int] = []
    for match in TOKEN.finditer(text):
        token = match[0]
        first = token[0]
        if first in b",:":
            continue
        if first in b"{[":
            waiting.append(held)
            held = []
            continue
        if first in b"}]":
            key = _object_key(held) if first == _CLOSE_OBJECT else b"[" + array("Q", held).tobytes()
            held = waiting.pop()
        elif first == _QUOTE and b"\\" in token:
            key = json.dumps(json.loads(token), ensure_ascii=False).encode("utf-8", "surrogatepass")
        else:
            key = token
        held.append(numbers.setdefault(key, len(numbers)))
    assert not waiting, "only checked JSON texts are compared"
    [number] = held
    return number


def _object_key(names_and_values: list[int]) -> bytes:
    members = sorted(zip(names_and_values[::2], names_and_values[1::2], strict=True), key=itemgetter(0))
    return b"{" + array("Q", chain.from_iterable(members)).tobytes()
